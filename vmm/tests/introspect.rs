//! Looks at real programs that crash, and at damaged ones.
//!
//! Programs are compiled when a test runs, with the compilers that harnesses are built with: clang-16,
//! lld-16 and musl-gcc (`apt-get install clang-16 lld-16 musl-tools`).
#[path = "introspect/accesses.rs"]
mod accesses;
#[path = "introspect/backtraces.rs"]
mod backtraces;
#[path = "introspect/build.rs"]
mod build;
#[path = "introspect/hostile.rs"]
mod hostile;
#[path = "introspect/languages.rs"]
mod languages;
#[path = "introspect/reports.rs"]
mod reports;
#[path = "introspect/tracee.rs"]
mod tracee;
