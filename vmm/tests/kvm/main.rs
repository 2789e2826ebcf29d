//! Tests on real KVM, with guests of a few bytes. Without `/dev/kvm` they fail, and say why.

mod bench;
mod boot;
mod common;
mod determinism;
mod equivalence;
mod hostile;
mod hot_set;
mod instructions;
mod interpreter;
mod mutants;
mod pool;
mod programs;
mod reset;
mod snapshot;
mod snippets;
mod timeouts;
mod tree;
