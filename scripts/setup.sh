#!/usr/bin/env bash
#
# Installs what building and testing need, from Debian, if it is missing: says what before doing it,
# and does nothing when all is there. Run by fuzz.sh and test.sh; may be run alone.
set -euo pipefail

fail() {
    echo "setup: $*" >&2
    exit 1
}

# have COMMAND...: whether one of the commands is there.
have() {
    local command
    for command in "$@"; do
        if command -v "$command" >/dev/null 2>&1; then
            return 0
        fi
    done
    return 1
}

# static_library NAME: whether the C++ compiler finds it (its name with the folder, not just its name).
static_library() {
    have g++ && [[ "$(g++ -print-file-name="$1")" == /* ]]
}

missing=()
reasons=()
need() {
    missing+=("$1")
    reasons+=("  $1: $2")
}

have clang-16 clang || need clang-16 "compiles harnesses, with coverage"
have ld.lld-16 ld.lld || need lld-16 "links them"
have musl-gcc || need musl-tools "the C library of harnesses in C"
{ static_library libstdc++.a && static_library libc.a; } ||
    need g++ "the C++ library of harnesses in C++, and the linker that Rust uses"
have make || need make "builds redis and nginx, which the tests run"
have ip || need iproute2 "makes the network namespaces that stand for machines in the tests"
have diet || need dietlibc-dev "a third C library, for the tests of unmodified programs"
[[ -e /etc/ssl/certs/ca-certificates.crt ]] || need ca-certificates "lets cargo download crates"

if ((${#missing[@]} > 0)); then
    echo "setup: missing Debian packages, to be installed now:" >&2
    printf '%s\n' "${reasons[@]}" >&2
    have apt-get || fail "there is no apt-get here; install them by other means"
    as_root=()
    if ((EUID != 0)); then
        have sudo || fail "not root and no sudo; run as root: apt-get install ${missing[*]}"
        as_root=(sudo)
    fi
    # A package list of some other archive may be unreachable; what matters is the next line.
    "${as_root[@]}" apt-get update -q || echo "setup: apt-get update failed; trying with the lists there are" >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "${missing[@]}" ||
        fail "apt-get could not install: ${missing[*]} (is there a network? is this Debian 12?)"
fi

# Peers that the tests exchange inputs with; a test that misses one says so and leaves it out.
if [[ -n "${CI:-}" ]] && have apt-get && { ! have afl-fuzz || ! dpkg -s libclang-rt-16-dev >/dev/null 2>&1; }; then
    echo "setup: installing AFL++ and libFuzzer, which the tests exchange inputs with" >&2
    as_root=()
    ((EUID == 0)) || as_root=(sudo)
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends afl++ libclang-rt-16-dev ||
        echo "setup: could not; these tests leave them out" >&2
fi

# Looked for as the user who builds, not as root.
if ! have cargo && [[ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]]; then
    fail "cargo is installed but not on PATH; run: . \"${CARGO_HOME:-$HOME/.cargo}/env\""
fi
have cargo || fail "cargo is missing; install Rust with rustup (https://rustup.rs) and run this again"
