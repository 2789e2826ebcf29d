//! Stages of our own; the mutational ones are LibAFL's.

pub(crate) mod batch;
pub(crate) mod calibrate;
pub(crate) mod compare;
