#!/usr/bin/env python3
"""Compares ways to fuzz, side by side: edges covered after equal processor time and equal executions.

    scripts/compare-campaigns.py --unifork target/release/unifork cjson.img sqlite.img \
        --cpu 20 --execs 1000000,100000 --trials 5 \
        --arm 'all:' --arm 'without power:--without power' --arm 'without tokens:--without tokens'

An arm is a name and the flags of `unifork fuzz` that make it. Every trial of every arm is a campaign of
its own, from the seeds beside the image; the arms take turns, trial by trial, in another order each time,
so that a machine that is busy for a while is so for all. A campaign ends once it has had its processor time
(its `cpu_s`) and made its executions. On a busy machine executions compare better: there, processor time
buys less of them at one time than at another. Edges are read from the campaign's own figures, one line a second;
between two lines they are interpolated.

Prints a table in Markdown: for each image and arm the median, with least and most, of the edges after
the processor time and after the executions. A difference is marked with `+` or `-` when the two-sided
Mann-Whitney test against the first arm has p < 0.1. Raw figures go to --raw, trial by trial; --table prints
the table of such a file.
"""

import argparse
import json
import os
import platform
import random
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

# A campaign that gets no processor time at all is given up after so many times its processor time.
PATIENCE = 20


def figures(campaign):
    """The lines of a campaign's log that are figures: (processor time, executions, edges)."""
    points = []
    try:
        text = (campaign / "stats.jsonl").read_text()
    except FileNotFoundError:
        return points
    for line in text.splitlines():
        try:
            line = json.loads(line)
        except json.JSONDecodeError:
            continue  # The last line may be half written.
        if "cpu_s" in line:
            points.append((line["cpu_s"], line["execs"], line["edges"]))
    return points


def trial(unifork, image, flags, cpu_s, execs):
    """Runs one campaign; its figures."""
    with tempfile.TemporaryDirectory(prefix="unifork-compare-") as folder:
        output = Path(folder) / "campaign"
        command = [unifork, "fuzz", image, "--output", output, *flags]
        child = subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        start = time.monotonic()
        while child.poll() is None:
            time.sleep(0.25)
            points = figures(output)
            late = time.monotonic() - start > PATIENCE * cpu_s
            if late or (points and points[-1][0] >= cpu_s and points[-1][1] >= execs):
                child.send_signal(signal.SIGINT)
                break
        _, errors = child.communicate()
        if child.returncode != 0:
            sys.exit(f"{shlex.join(map(str, command))} ended with {child.returncode}:\n{errors}")
        points = figures(output)
        if not points or points[-1][0] < cpu_s or points[-1][1] < execs:
            print(f"{shlex.join(map(str, command))} did not get there; it counts as it ended", file=sys.stderr)
        return points


def at(points, axis, limit):
    """The edges where `axis` (0: processor time, 1: executions) reaches `limit`."""
    before = (0.0, 0, 0)
    for point in points:
        if point[axis] >= limit:
            span = point[axis] - before[axis]
            share = (limit - before[axis]) / span if span else 1.0
            return before[2] + share * (point[2] - before[2])
        before = point
    return points[-1][2]


def p_value(one, other):
    """Two-sided p of the Mann-Whitney test, exact: by all ways to divide the values."""
    values = one + other
    ranks = {}
    for value in values:
        below = sum(v < value for v in values)
        ranks[value] = below + (sum(v == value for v in values) + 1) / 2
    expected = len(one) * (len(values) + 1) / 2
    distance = abs(sum(ranks[v] for v in one) - expected)
    if len(values) > 20:
        sums = [sum(ranks[v] for v in random.sample(values, len(one))) for _ in range(20000)]
    else:
        sums = [sum(ranks[values[i]] for i in chosen) for chosen in combinations(range(len(values)), len(one))]
    return sum(abs(s - expected) >= distance - 1e-9 for s in sums) / len(sums)


def cell(values, base):
    text = f"{statistics.median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})"
    if base is None or len(values) < 3:
        return text
    change = statistics.median(values) / max(statistics.median(base), 1) - 1
    mark = ""
    if p_value(values, base) < 0.1:
        mark = " +" if change > 0 else " -"
    return f"{text} {change:+.1%}{mark}"


def parse(text):
    name, _, flags = text.partition(":")
    return name.strip(), shlex.split(flags)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="*", help="images, with seeds (and dictionary, and grammar) beside them")
    parser.add_argument("--unifork", default="unifork", help="the program")
    parser.add_argument("--arm", action="append", default=[], metavar="NAME:FLAGS",
                        help="a way to fuzz; the first is what the others are compared with")
    parser.add_argument("--cpu", type=float, default=20, help="processor time of one campaign, in seconds")
    parser.add_argument("--execs", default="0", metavar="N[,N...]",
                        help="executions of one campaign, for each image or for all")
    parser.add_argument("--trials", type=int, default=5, help="campaigns of each arm and image")
    parser.add_argument("--jobs", type=int, default=1, help="campaigns at once")
    parser.add_argument("--raw", type=Path, help="file for the figures of every trial, as JSON")
    parser.add_argument("--table", type=Path, metavar="RAW", help="only print the table of this file")
    args = parser.parse_args()
    if args.table:
        show(json.loads(args.table.read_text()))
        return
    if not args.images or not args.arm:
        parser.error("name images and arms")
    unifork = shutil.which(args.unifork)
    if unifork is None:
        sys.exit(f"{args.unifork} is not a program; name it with --unifork")
    arms = [parse(arm) for arm in args.arm]
    execs = [int(number) for number in args.execs.split(",")]
    execs = dict(zip(args.images, execs if len(execs) > 1 else execs * len(args.images)))

    work = []
    for number in range(args.trials):
        for image in args.images:
            order = list(range(len(arms)))
            random.Random(f"{number} {image}").shuffle(order)
            work += [(image, arm) for arm in order]
    results = {(image, arm): [] for image in args.images for arm in range(len(arms))}
    done = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        def one(item):
            return item, trial(unifork, item[0], arms[item[1]][1], args.cpu, execs[item[0]])
        for item, points in pool.map(one, work):
            results[item].append(points)
            done += 1
            if sys.stderr.isatty():
                print(f"\r{done} of {len(work)}", end="", file=sys.stderr)
            if args.raw:
                args.raw.write_text(json.dumps(record(args, execs, arms, results)))
    show(record(args, execs, arms, results))


def record(args, execs, arms, results):
    """All there is, as it goes to a file."""
    machine = f"{platform.machine()}, Linux {platform.release()}, {os.cpu_count()} processors"
    campaigns = [{"image": i, "arm": arms[a][0], "trials": trials} for (i, a), trials in results.items()]
    return {"machine": machine, "load": os.getloadavg()[1], "cpu": args.cpu, "execs": execs, "campaigns": campaigns}


def show(record):
    """Prints the table."""
    cpu_s, campaigns = record["cpu"], record["campaigns"]
    print(f"{record['machine']}, load {record['load']:.1f}; median (least–most), change against the first arm, "
          f"+ or - where p < 0.1")
    for image in dict.fromkeys(one["image"] for one in campaigns):
        execs = record["execs"][image]
        print(f"\n**{Path(image).stem}**\n")
        print(f"| | trials | edges after {cpu_s:g} s | edges after {execs:,} executions |")
        print("|---|--:|--:|--:|")
        bases = (None, None)
        for one in campaigns:
            trials = one["trials"]
            if one["image"] != image or not trials:
                continue
            by_time = [at(points, 0, cpu_s) for points in trials]
            by_execs = [at(points, 1, execs) for points in trials]
            print(f"| {one['arm']} | {len(trials)} | {cell(by_time, bases[0])} | {cell(by_execs, bases[1])} |")
            if bases[0] is None:
                bases = (by_time, by_execs)


if __name__ == "__main__":
    main()
