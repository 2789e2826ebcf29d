#!/usr/bin/env bash
#
# Fuzzes a harness: installs what is missing, builds the tool and the harness, and starts.
#
#   scripts/fuzz.sh HARNESS [arguments of unifork fuzz]
#   scripts/fuzz.sh sqlite --for 60s
#
# Works from any folder. The campaign is kept in target/campaigns/HARNESS and goes on from there the
# next time, unless --output says otherwise.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"

harnesses() {
    local manifest
    while IFS= read -r manifest; do
        manifest="${manifest#"$root/harnesses/"}"
        echo "  ${manifest%/harness.toml}"
    done < <(find "$root/harnesses" -name harness.toml | LC_ALL=C sort)
}

if (($# == 0)) || [[ "$1" == -* ]]; then
    echo "usage: scripts/fuzz.sh HARNESS [arguments of unifork fuzz]" >&2
    echo "harnesses:" >&2
    harnesses >&2
    exit 2
fi
harness="${1%/}"
harness="${harness#harnesses/}"
shift
if [[ ! -f "$root/harnesses/$harness/harness.toml" ]]; then
    echo "fuzz: no harness named $harness; there are:" >&2
    harnesses >&2
    exit 2
fi

"$root/scripts/setup.sh"

target="${CARGO_TARGET_DIR:-target}"
[[ "$target" == /* ]] || target="$root/$target"
unifork="$target/release/unifork"
image="$root/target/harnesses/$harness.img"

# In the repository, where rust-toolchain.toml is. Both builds do only what is not done yet.
(
    cd -- "$root"
    cargo build --release --package unifork
    "$unifork" build "harnesses/$harness" -o "$image"
)

output=(--output "$root/target/campaigns/$harness")
for argument in "$@"; do
    if [[ "$argument" == --output || "$argument" == --output=* ]]; then
        output=()
    fi
done
exec "$unifork" fuzz "$image" "${output[@]}" "$@"
