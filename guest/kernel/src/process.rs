//! Who the process is and what it may use.

pub(crate) mod identity;
pub(crate) mod limits;
pub(crate) mod machine;
pub(crate) mod prctl;
pub(crate) mod random;
pub(crate) mod scheduling;
