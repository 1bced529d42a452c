"""Pieces of a page that holds everything: it loads nothing, runs no script, and reads on screens and on paper."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from .stylesheet import STYLESHEET

# Browsers hold the page to it, whatever stands in it.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, header: str, sections: Mapping[str, str]) -> str:
    """A page with its contents.

    Args:
        title: of the window, plain text.
        header: markup, with the one heading of first rank.
        sections: markup by heading, plain text.
    """
    items = "".join(f'<li><a href="#{_anchor(name)}">{escape(name)}</a></li>' for name in sections)
    body = "".join(
        f'<section id="{_anchor(name)}"><h2>{escape(name)}</h2>\n{content}</section>\n'
        for name, content in sections.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLESHEET}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">Skip to the results</a>\n'
        f'<header>\n{header}</header>\n<nav aria-label="Contents"><ol>{items}</ol></nav>\n'
        f'<main id="main" tabindex="-1">\n{body}</main>\n</body>\n</html>\n'
    )


def _anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def prose(sentence: str) -> str:
    """Escaped, with equations that no line break parts."""
    return escape(sentence).replace(" = ", "&nbsp;=&nbsp;").replace(" / ", "&nbsp;/&nbsp;")


def paragraphs(sentences: Iterable[str]) -> str:
    """A paragraph a sentence."""
    return "".join(f"<p>{prose(sentence)}</p>" for sentence in sentences) + "\n"


def told(found: Mapping[str, Iterable[str]]) -> str:
    """Sentences by heading."""
    return "".join(f"<h3>{escape(heading)}</h3>{paragraphs(sentences)}" for heading, sentences in found.items())


def key_numbers(entries: Iterable[tuple[str, str]]) -> str:
    """Numbers that stand out, each with what it is."""
    items = "".join(f"<li><b>{escape(value)}</b> {prose(meaning)}</li>" for value, meaning in entries)
    return f'<ul class="key">{items}</ul>\n'


def figure(drawing: bytes, alternative: str, caption: str) -> str:
    """A drawing in SVG; where it would be too small to read it scrolls on its own."""
    # An image of its own rather than inline markup: the names inside one drawing are those inside the next.
    content = base64.b64encode(drawing).decode("ascii")
    label = escape(caption.split(". ")[0])
    return (
        f'<figure><div class="wide drawing" tabindex="0" role="region" aria-label="{label}">'
        f'<img alt="{escape(alternative)}" src="data:image/svg+xml;base64,{content}"></div>'
        f"<figcaption>{prose(caption)}</figcaption></figure>\n"
    )


def cell_row(heading: str, entries: Iterable[str], rows: int = 1) -> str:
    """A row of a table, with a heading for so many of them; without one if that is empty."""
    scope = "row" if rows == 1 else "rowgroup"
    span = "" if rows == 1 else f' rowspan="{rows}"'
    first = f'<th scope="{scope}"{span}>{escape(heading)}</th>' if heading else ""
    return first + "".join(f"<td>{escape(entry)}</td>" for entry in entries)


def table(caption: str, headings: Sequence[str], groups: Iterable[Iterable[str]]) -> str:
    """A table that scrolls on its own where it is wider than the screen; groups are rows of `cell_row`."""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    bodies = "\n".join(f"<tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody>" for rows in groups)
    label = escape(caption.split(". ")[0])
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table><caption>{prose(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead>{bodies}</table></div>\n"
    )


def definitions(entries: Mapping[str, str]) -> str:
    """Terms and what they are."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in entries.items())
    return f"<dl>{rows}</dl>\n"


def command_box(command: str) -> str:
    """A line for a shell, selected as a whole."""
    return f"<pre><code>{escape(command)}</code></pre>\n"
