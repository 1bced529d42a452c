"""Wall time and peak memory of the whole study `mnist16`; run `python benchmarks/study_mnist16.py`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS, GIBIBYTES, SECONDS_A_HESSIAN = 120, 1.5, 6


def main() -> None:
    """Runs the study in a fresh process and folder; the exit code says whether the limits held."""
    import resource  # Unix only, as is the way to ask for a child's peak memory

    with tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "eigenspan", "study", "mnist16", "--out", directory], check=True)
        seconds = time.perf_counter() - began
        records = json.loads((Path(directory) / "results.json").read_text())["records"]
    unit = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss counts bytes there, kibibytes elsewhere
    gibibytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit
    slowest = max(record["report"]["seconds"] for record in records)
    products = [record["report"]["products"] for record in records]
    print(f"{len(records)} Hessians, {min(products)} to {max(products)} products each")
    rows = [
        ("whole study", seconds, SECONDS, "s"),
        ("peak memory", gibibytes, GIBIBYTES, "GiB"),
        ("slowest Hessian", slowest, SECONDS_A_HESSIAN, "s"),
    ]
    for name, measured, limit, symbol in rows:
        print(f"{name:>16}: {measured:7.2f} {symbol}, limit {limit} {symbol}{'' if measured <= limit else '  MISSED'}")
    sys.exit(any(measured > limit for _, measured, limit, _ in rows))


if __name__ == "__main__":
    main()
