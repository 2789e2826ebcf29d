//! Tests on real KVM, with guests of a few bytes. Without `/dev/kvm` they fail, and say why.

mod boot;
mod common;
mod equivalence;
mod interpreter;
mod programs;
mod reset;
mod pool;
mod tree;
