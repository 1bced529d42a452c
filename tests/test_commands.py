"""The commands that pages name are there, and have the options that they are given.

To run them all would take days: here they are read, those of `eigenspan` by its own command line.
"""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eigenspan.studies import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")]
SHELL = re.compile(r"^```(?:sh|bash)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
EXTRAS = re.compile(r"\[(\w+(?:,\w+)*)\]")


def commands(text: str, pattern: re.Pattern[str]) -> list[list[str]]:
    """The words of each command that is ours to check, of the code that a pattern finds."""
    found = []
    for code in pattern.findall(text):
        lines = code.replace("\n", " ").splitlines() if pattern is INLINE else code.splitlines()
        parts = [part for line in lines for part in re.split(r"\s&&\s|\s&(?:\s|$)|\|", re.sub(r"\s#.*", "", line))]
        for part in parts:
            try:
                words = shlex.split(part)
            except ValueError:  # an apostrophe: no command
                continue
            if "eigenspan" in words and words[0] in ("torchrun", "srun", "python"):
                words = words[words.index("eigenspan") :]
            if words and (words[0] in ("eigenspan", "python", "pytest", "pip") or words[0].startswith(".ci/")):
                found.append(words)
    return found


@pytest.fixture(scope="module")
def parsed():
    """What the command line says to words, none of which is carried out."""
    runner, patch = CliRunner(), pytest.MonkeyPatch()
    for command in cli.app.registered_commands:
        patch.setattr(command, "callback", harmless(command.callback))
    yield lambda words: runner.invoke(cli.app, words)
    patch.undo()


def harmless(callback):
    """A command with the same options, which does nothing."""
    return functools.wraps(callback)(lambda **_: None)


def extras() -> set[str]:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\[project.optional-dependencies\]\n(.*?)^\[", project, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"^(\w+) =", table, re.MULTILINE))


def require(words: list[str], parsed) -> None:
    program, *rest = words
    if program == "eigenspan":
        result = parsed(rest)
        assert result.exit_code == 0, result.output
    elif program == "pip":
        for names in EXTRAS.findall(" ".join(rest)):
            assert set(names.split(",")) <= extras()
    elif program == "pytest":
        assert all((ROOT / word).exists() for word in rest if "/" in word)
    else:
        script, *options = (program, *rest) if program.startswith(".ci/") else rest
        assert (ROOT / script).is_file()
        known = "".join(file.read_text(encoding="utf-8") for file in (ROOT / script).parent.glob("*.py"))
        assert all(f'"{option}"' in known for option in options if option.startswith("--"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_are_there(page, parsed):
    text = page.read_text(encoding="utf-8")
    for words in commands(text, SHELL):
        if words[0] != "python" or words[1] not in ("-m", "script.py"):
            require(words, parsed)
    for words in commands(SHELL.sub("", text), INLINE):
        names_alone = words[0] == "eigenspan" and len([word for word in words if not word.startswith("-")]) < 3
        if not names_alone and words[1:] and words[1] not in ("-m", "-X", "-c"):
            require([re.sub("[…]|\\.\\.\\.$", "", word) for word in words], parsed)


@pytest.mark.parametrize("command", cli.app.registered_commands, ids=lambda command: command.callback.__name__)
def test_the_examples_of_the_help_are_commands(command, parsed):
    examples = re.findall(r": (eigenspan [^,]+?)\.(?:\s|$)", command.epilog)
    assert examples
    for example in examples:
        require(shlex.split(example), parsed)


@pytest.mark.parametrize(
    "command",
    [
        "eigenspan study mnist16 --no-such-option",
        "eigenspan study mnist16 --k few",
        "eigenspan no-such-command mnist16",
        'pip install -e ".[nothing]"',
        "pytest tests/nowhere",
        "python benchmarks/nothing.py",
        "python benchmarks/solvers.py --no-such-option",
        ".ci/nothing",
    ],
)
def test_one_that_is_not_is_found(command, parsed):
    (words,) = commands(f"`{command}`", INLINE)
    with pytest.raises(AssertionError):
        require(words, parsed)
