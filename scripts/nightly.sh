#!/usr/bin/env bash
#
# The soundness checks at length: 100,000 rounds each of random programs and of real harnesses under
# every engine, and of batches. Takes some hours. Arguments go to the test runner; UNIFORK_ROUNDS sets
# another number of rounds. A failure of the former prints its seed: UNIFORK_SEED=HEX UNIFORK_ROUNDS=1.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
scripts/setup.sh

export UNIFORK_ROUNDS="${UNIFORK_ROUNDS:-100000}"
cargo test --profile ci --package unifork-vmm --test kvm every_engine_puts_back -- --nocapture "$@"
cargo test --profile ci --package unifork --test soundness -- --nocapture "$@"
