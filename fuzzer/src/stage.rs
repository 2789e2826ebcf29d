//! Stages of our own: LibAFL's run inputs one by one.

pub(crate) mod batch;
pub(crate) mod calibrate;
pub(crate) mod compare;
pub(crate) mod share;
