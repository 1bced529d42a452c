"""The command line: ``eigenspan`` and ``python -m eigenspan``."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line, or says which extra it needs."""
    try:
        from .studies.cli import app
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in {"typer", "rich", "matplotlib"}:
            raise
        sys.exit(f'eigenspan: {error.name} is missing; install it with: pip install "eigenspan[studies]"')
    app()


if __name__ == "__main__":
    main()
