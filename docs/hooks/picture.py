"""Draws the picture of the README by the code of the first page: `python docs/hooks/picture.py`, in the checkout."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    """Runs the blocks of docs/index.md, and writes the figure that it shows, on white."""
    matplotlib.use("agg")
    matplotlib.rcParams.update(runpy.run_path(str(Path(__file__).with_name("site.py")))["STYLE"])
    matplotlib.rcParams["figure.facecolor"] = "white"

    def shown(figure: Figure, alternative: str) -> str:
        figure.savefig(ROOT / ".github" / "overlap.png", dpi=150, metadata={"Software": None})
        return alternative

    names = {"shown": shown}
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for block in re.findall(r'^```python exec="true".*?\n(.*?)^```', page, re.DOTALL | re.MULTILINE):
        exec(block, names)


if __name__ == "__main__":
    main()
