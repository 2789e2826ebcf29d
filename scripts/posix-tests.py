#!/usr/bin/env python3
"""Runs the POSIX conformance tests that Debian packages, on this machine and in a guest, and compares.

    apt-get source --download-only --tar-only posixtestsuite     # and unpack it
    scripts/posix-tests.py UNPACKED-FOLDER [UNIFORK]

Only tests of interfaces that fork no process and run no other program are taken. They are built with musl,
statically. Takes some minutes, since many sleep; nothing runs it by itself. What it found is in docs/linux.md.
"""

import collections
import concurrent.futures
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

VERDICTS = {0: "pass", 1: "fail", 2: "unresolved", 4: "unsupported", 5: "untested", 124: "timeout"}
OTHER_PROCESSES = re.compile(r"\b(fork|system|execlp?|execle|execvp?|execve|popen)\s*\(")
SECONDS_MAX = 45


def tests(root):
    for path in sorted((root / "conformance/interfaces").rglob("*.c")):
        if re.fullmatch(r"\d+-\d+\.c", path.name) and not OTHER_PROCESSES.search(path.read_text("latin-1")):
            yield path


def build(root, source, program):
    helpers = [
        other for other in source.parent.glob("*.c")
        if not other.name[0].isdigit() and "main" not in other.read_text("latin-1")
    ]
    command = ["musl-gcc", "-w", "-O1", "-static", "-no-pie", "-std=gnu99", "-D_GNU_SOURCE", "-D_XOPEN_SOURCE=700"]
    command += [f"-I{root / 'include'}", f"-I{source.parent}", source, *helpers, "-o", program, "-lpthread", "-lrt", "-lm"]
    return subprocess.run(command, capture_output=True).returncode == 0


def run(command):
    """The verdict: what the test's exit code means."""
    with tempfile.TemporaryDirectory() as folder:
        command = [word.replace("ROOT", folder) for word in command]
        try:
            done = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS_MAX
            )
        except subprocess.TimeoutExpired:
            return "timeout"
    code = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return VERDICTS.get(code, f"exit code {code}")


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    root = Path(sys.argv[1]).resolve()
    unifork = sys.argv[2] if len(sys.argv) > 2 else "unifork"
    guest = [unifork, "run", "--timeout", "20s", "--root", "ROOT"]
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        named = {str(path.relative_to(root / "conformance/interfaces"))[:-2]: path for path in tests(root)}
        programs = {name: os.path.join(folder, name.replace("/", "__")) for name in named}
        built = list(pool.map(lambda name: build(root, named[name], programs[name]), named))
        programs = {name: path for (name, path), good in zip(programs.items(), built) if good}
        print(f"{len(named)} tests, {len(programs)} built")
        here = dict(zip(programs, pool.map(lambda path: run([path]), programs.values())))
        there = dict(zip(programs, pool.map(lambda path: run([*guest, path]), programs.values())))
    print("host: ", dict(collections.Counter(here.values()).most_common()))
    print("guest:", dict(collections.Counter(there.values()).most_common()))
    differing = [name for name in programs if here[name] != there[name]]
    passing = [name for name in programs if here[name] == "pass"]
    both = sum(there[name] == "pass" for name in passing)
    print(f"{both} of {len(passing)} that pass on the host pass in the guest; {len(differing)} differ:")
    for name in differing:
        print(f"  {name}: host {here[name]}, guest {there[name]}")


if __name__ == "__main__":
    main()
