"""How commands end that could not do what they were to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer


@contextlib.contextmanager
def plain_errors(code: int, traceback: bool, kept: str = "") -> Iterator[None]:
    """Errors that a user can mend, as one line and an exit code, or as they are with ``traceback``."""
    try:
        yield
    except typer.Exit:  # a RuntimeError, of an error that has been told
        raise
    except (OSError, ValueError, TypeError, RuntimeError, IndexError) as error:  # of classes that are none
        if traceback:
            raise
        typer.echo(f"eigenspan: {' '.join(str(error).splitlines())}", err=True)
        raise typer.Exit(code) from error
    except KeyboardInterrupt as error:
        typer.echo(f"eigenspan: interrupted{kept}; run the same command again to go on", err=True)
        raise typer.Exit(130) from error
