"""How commands end that could not do what they were to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer


def _told(error: Exception) -> str:
    """An error in words; those of the system, which has a number and a file, begin with the file."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"
    return str(error) or type(error).__name__


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
        typer.echo(f"eigenspan: {' '.join(_told(error).splitlines())}", err=True)
        raise typer.Exit(code) from error
    except KeyboardInterrupt as error:
        typer.echo(f"eigenspan: interrupted{kept}; run the same command again to go on", err=True)
        raise typer.Exit(130) from error
