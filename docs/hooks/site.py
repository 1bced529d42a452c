"""What the build adds to MkDocs: figures in the colours of the page, the index of names, a look for remote files."""

from __future__ import annotations

import ast
import builtins
import io
import logging
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
from docstrings import linked
from matplotlib.figure import Figure

from eigenspan.studies.drawing import OVERLAP

ROOT = Path(__file__).resolve().parent.parent.parent
STYLE = {
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "font.size": 11,
    "grid.alpha": 0.25,
    "grid.color": "#808080",
    "legend.frameon": False,
    "lines.linewidth": 2,
    # As clear on white as on black.
    "axes.prop_cycle": matplotlib.cycler(color=["#3f7fd0", "#d8721f", "#2f9e6e", "#b05fc4", "#808080"]),
    "svg.fonttype": "none",  # text stays text, in the font of the page
}


def on_startup(**_: Any) -> None:
    """Figures are drawn in the style of the site; code blocks may call `shown`, in lines that pages hide."""
    matplotlib.use("svg")
    matplotlib.rcParams.update(STYLE)
    builtins.shown = shown  # type: ignore[attr-defined]


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Public names in backticks become links, and the index of the reference lists the names on its other pages."""
    if page.file.src_uri == "coming-from.md":  # which has namesakes
        return markdown
    if page.file.src_uri == "where-things-are.md":
        return re.sub(r"<!-- the files of (\S+), by the build -->", lambda found: files_of(found[1]), markdown)
    if page.file.src_uri != "api/index.md":
        parts = re.split(r"(^```.*?^```|^#.*?$|\[[^\]]*\])", markdown, flags=re.DOTALL | re.MULTILINE)
        return "".join(part if number % 2 else linked(part) for number, part in enumerate(parts))
    rows = ["| page | names |", "|---|---|"]
    (pages,) = (entry["API"] for entry in config["nav"] if "API" in entry)
    for entry in pages[1:]:
        ((title, address),) = entry.items()
        names = re.findall(r"^::: (\S+)$", files.get_file_from_path(address).content_string, re.MULTILINE)
        links = ", ".join(f"[`{name.rpartition('.')[2]}`][{name}]" for name in names)
        rows.append(f"| [{title}]({Path(address).name}) | {links} |")
    return markdown.replace("<!-- the names, by the build -->", "\n".join(rows))


def files_of(folder: str) -> str:
    """A table of the files of code in a folder, but for tests, in the words that each begins with."""
    rows = ["| file | holds |", "|---|---|"]
    for file in sorted((ROOT / folder).glob("*.py")):
        if file.name != "__init__.py" and not file.name.startswith("test_"):
            said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            summary = " ".join(said.partition("\n\n")[0].split()).replace("|", r"\|")
            rows.append(f"| `{folder}/{file.name}` | {summary} |")
    return "\n".join(rows)


def shown(figure: Figure, alternative: str) -> str:
    """The HTML of a figure, black in the colour of the page's text; ``alternative`` says what it shows."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace("#000000", "currentColor").replace(OVERLAP, "#3f7fd0")  # too dark on black
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg [^>]*?)width="[^"]*"', r'\1role="img" fill="currentColor"', svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'(<svg [^>]*?)height="[^"]*"', r"\1", svg, count=1, flags=re.DOTALL)
    width = 100 * figure.get_size_inches()[0]
    style = f"max-width: {width:.0f}px; --legible: {width / 2:.0f}px"
    return f'<figure class="drawn" aria-label="{escape(alternative)}" style="{style}">{svg}</figure>'


class _Loads(HTMLParser):
    """The addresses that a page loads when it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        if tag in ("script", "img", "iframe", "source", "video", "audio"):
            self.found += [values.get("src", ""), values.get("srcset", "")]
        elif tag == "link" and values.get("rel") != "canonical":
            self.found.append(values.get("href", ""))


def on_post_build(config: Any) -> None:
    """Warns, which is an error in a strict build, of what a reader's browser would load from the network."""
    for file in sorted(Path(config["site_dir"]).rglob("*")):
        if file.suffix == ".html":
            page = _Loads()
            page.feed(file.read_text(encoding="utf-8"))
            addresses = page.found
        elif file.suffix == ".css":
            text = file.read_text(encoding="utf-8")
            addresses = re.findall(r"""(?:url\(|@import)\s*["']?([^"')]+)""", text)
        else:
            continue
        for address in addresses:
            if re.match(r"(?:https?:)?//", address.strip()):
                logging.getLogger("mkdocs.hooks").warning(f"{file} loads {address} from the network")
