//! The guest, embedded: the libOS kernel and the C runtime's sources.
