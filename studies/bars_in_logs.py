"""Progress where nobody watches: in the log of a batch job, bars become a plain line now and then."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

_SECONDS = 30.0
_BAR = re.compile(r"\|.*\|")
_MOVES = re.compile(r"(\n|\x1b\[A)*")  # of the cursor, between bars


class ProgressLines(io.TextIOBase):
    """A stream for bars of tqdm and for other text: this it passes on, of those a line each half minute.

    Args:
        stream: where lines go.
        clock: tells seconds.
    """

    encoding = "ascii"

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._told, self._within_line = clock(), False

    def write(self, text: str) -> int:
        """Pass text on; keep what tqdm draws to itself, but for a line now and then."""
        drawn = text.startswith("\r")
        if not drawn and (self._within_line or not _MOVES.fullmatch(text)):
            self._stream.write(text)
            self._within_line = not text.endswith("\n")
        elif drawn and text.strip() and self._clock() - self._told >= _SECONDS:
            self._told = self._clock()
            self._stream.write(f"{' '.join(_BAR.sub(' ', text).split())}\n")
            self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()


@contextlib.contextmanager
def legible_progress() -> Iterator[None]:
    """Within it bars on standard error are bars in a terminal, and lines elsewhere."""
    lines = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(ProgressLines(sys.stderr))
    with lines:
        yield
