//! Builds the libOS kernel with its own flags and target folder, so that the workspace's build
//! needs no second step.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for folder in ["abi", "fs", "hal", "kernel", "runtime"] {
        println!("cargo:rerun-if-changed={}", guest.join(folder).display());
    }
    let target = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("kernel");
    let cargo = std::env::var_os("CARGO").expect("cargo sets CARGO");
    let mut build = Command::new(cargo);
    build.args(["rustc", "--release", "--bin", "unifork-kernel", "--locked"]);
    build.arg("--manifest-path").arg(guest.join("kernel/Cargo.toml"));
    build.arg("--target-dir").arg(&target);
    // What cargo set for this crate's own build must not leak into the kernel's.
    for name in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
        "RUSTC_WORKSPACE_WRAPPER",
    ] {
        build.env_remove(name);
    }
    build.env("RUSTC_WRAPPER", guest.join("kernel/sancov-rustc"));
    build.env(
        "CARGO_ENCODED_RUSTFLAGS",
        "-Crelocation-model=static\u{1f}-Ctarget-feature=+crt-static\u{1f}-Cforce-frame-pointers=yes",
    );
    let status = build.status().expect("cargo starts");
    assert!(status.success(), "the libOS kernel does not build; its errors are above");
    let kernel = target.join("release/unifork-kernel");
    println!("cargo:rustc-env=UNIFORK_KERNEL={}", kernel.display());
}
