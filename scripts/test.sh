#!/usr/bin/env bash
#
# Runs every check and test: installs what is missing, then formatting, lints and tests, cheapest
# first. Works from any folder. Ends with the test runner's own summary.
#
# Arguments go to the test runner, as in: scripts/test.sh --package unifork-harnesses
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
scripts/test-images.sh

# The guest's crates are outside the workspace: they are built with flags of their own.
cargo fmt --all --check
for crate in hal kernel; do
    cargo fmt --check --manifest-path "$PWD/guest/$crate/Cargo.toml"
done
cargo clippy --profile ci --workspace --all-targets -- --deny warnings
cargo clippy --profile release --manifest-path guest/kernel/Cargo.toml --target-dir target/guest -- --deny warnings

if cargo nextest --version >/dev/null 2>&1; then
    # nextest does not run the examples in documentation.
    cargo test --profile ci --workspace --doc --quiet
    cargo nextest run --config-file scripts/nextest.toml --cargo-profile ci --workspace --no-fail-fast "$@"
else
    cargo test --profile ci --workspace "$@"
fi
