//! The devices of a foreign machine. Each is a plain struct that can be copied, compared and
//! written down; time is a number that they are told.

pub(crate) mod hvt;
pub(crate) mod interrupts;
pub(crate) mod ioapic;
pub(crate) mod lapic;
pub(crate) mod pic;
pub(crate) mod pit;
pub(crate) mod rtc;
pub(crate) mod serial;
