//! Run one guest under KVM, freeze it, fork it, and put it back.
