"""How long `import eigenspan` takes beside `import torch`: at most 1.3 times as long.

Run `python benchmarks/import_time.py [--repetitions 7]`. Both are imported in fresh processes by turns, and what counts
is the cumulative time that `python -X importtime` prints. Exits with an error if the limit is missed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

LIMIT = 1.3


def main() -> None:
    """Prints both medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=7)
    repetitions = parser.parse_args().repetitions
    imported("eigenspan")  # from the disk
    pairs = [(imported("torch"), imported("eigenspan")) for _ in range(repetitions)]
    torch, eigenspan = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(ours / theirs for theirs, ours in pairs)
    print(f"import torch {torch:.2f} s, import eigenspan {eigenspan:.2f} s: {ratio:.2f} times (limit {LIMIT})")
    sys.exit(ratio > LIMIT)


def imported(module: str) -> float:
    """Seconds that a fresh process takes to import a module, torch before it included."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    lines = (line.removeprefix("import time:").split("|") for line in printed.splitlines() if "|" in line)
    found = {name.strip(): cumulative for _, cumulative, name in lines}
    return float(found[module]) / 1e6


if __name__ == "__main__":
    main()
