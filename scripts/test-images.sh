#!/usr/bin/env bash
#
# Fetches the kernels from Debian's archive that the tests boot, and unpacks them into the cache (UNIFORK_CACHE, or
# target/): nothing is installed. Does nothing when all are there. Run by test.sh; may be run alone.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
images="${UNIFORK_CACHE:-$PWD/target}/debian"

as_root() {
    if ((EUID == 0)); then "$@"; else sudo --non-interactive "$@"; fi
}

# The package with the kernel's present version: what the package of its name depends on.
kernel() {
    apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1
}

# fetch NAME PACKAGE: boot/ and usr/lib/grub-xen/ of the package, as $images/NAME.
fetch() {
    local fresh
    fresh="$(mktemp -d "$images/.fetch-XXXXXX")"
    # Else apt-get complains that its own user may not write here.
    if (cd "$fresh" && apt-get -q -o APT::Sandbox::User=root download "$2" && dpkg-deb --extract ./*.deb unpacked); then
        mkdir -p "$fresh/kept/usr/lib"
        [[ ! -d "$fresh/unpacked/boot" ]] || mv "$fresh/unpacked/boot" "$fresh/kept/"
        [[ ! -d "$fresh/unpacked/usr/lib/grub-xen" ]] || mv "$fresh/unpacked/usr/lib/grub-xen" "$fresh/kept/usr/lib/"
        find "$fresh/kept" -name '*.gz' -exec gunzip {} +
        mv "$fresh/kept" "$images/$1"
    fi
    rm -rf "$fresh"
    [[ -d "$images/$1" ]]
}

updated=
for name in memtest86+ xen-hypervisor-4.17-amd64 grub-xen-host linux-image-cloud-amd64; do
    [[ ! -d "$images/$name" ]] || continue
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "test-images: there is no apt-get here; tests of Debian's kernels will say what is missing" >&2
        exit 0
    fi
    mkdir -p "$images"
    echo "test-images: fetching Debian's $name" >&2
    for attempt in 1 2; do
        package="$name"
        [[ "$name" != linux-image-cloud-amd64 ]] || package="$(kernel)"
        if [[ -n "$package" ]] && fetch "$name" "$package"; then
            break
        fi
        if ((attempt == 1)) && [[ -z "$updated" ]]; then
            updated=1
            as_root apt-get update -q || echo "test-images: apt-get update failed" >&2
        else
            echo "test-images: $name could not be had; its test will say so" >&2
        fi
    done
done
