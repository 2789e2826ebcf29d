//! The guest, embedded: the libOS kernel, built by this crate's build script, and the sources of the
//! C runtime that is linked into every image.

/// The libOS kernel, an ELF file.
pub static KERNEL: &[u8] = include_bytes!(env!("UNIFORK_KERNEL"));

macro_rules! runtime {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../runtime/", $name)))),*]
    };
}

/// The C runtime: the name of each file below `guest/runtime`, and its text.
pub static RUNTIME: &[(&str, &str)] = runtime![
    "abi.h",
    "assert.c",
    "compare.c",
    "counters.ld",
    "driver.c",
    "image.c",
    "include/unifork.h",
    "mutate.c",
    "sancov.c",
    "standalone.c",
];
