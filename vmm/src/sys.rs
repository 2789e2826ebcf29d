//! The host's unsafe code, behind safe types: ioctls that kvm-ioctls lacks, mappings, signals.

pub(crate) mod alu;
pub(crate) mod dirty;
pub(crate) mod kick;
pub(crate) mod limits;
pub(crate) mod memfd;
pub(crate) mod ring;
pub(crate) mod run_loop;
pub(crate) mod slots;
pub(crate) mod tsc;
pub(crate) mod xsave;
