"""The code in the documentation runs, block after block, as a reader would type it; the reference is complete.

Pages with figures are run by the build of the site, `.ci/docs`, all others here.
"""

from __future__ import annotations

import ast
import inspect
import logging
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from interop_cases import EXTRA, theirs_to_mend
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import eigenspan
from eigenspan import studies
from eigenspan.linops import distributed
from eigenspan.studies import panels

ROOT = Path(__file__).resolve().parent.parent
OPTIONAL = {"curvlinops", "hessian_eigenthings", "laplace", "peft", "skerch", "transformers"}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
FENCE = re.compile(r"^[ \t>]*(```+|~~~+)[ \t]*\{?\.?(?:python|py|python3|pycon)\b(?P<options>[^\n]*)$", re.MULTILINE)


pytestmark = theirs_to_mend


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def examples(page: Path) -> list:
    return list(Sybil(parsers=[PythonCodeBlockParser()]).parse(page).examples())


def run(page: Path) -> None:
    """Runs the blocks of a page; those that begin with an optional package which is not there are skipped."""
    missing = {name for example in examples(page) if (name := missing_package(example))}
    if missing:
        pytest.skip(f"all but blocks with {', '.join(sorted(missing))} ran: {EXTRA}")


def missing_package(example) -> str | None:
    """Evaluates a block; gives the optional package that stopped it, if one did."""
    try:
        example.evaluate()
    except ModuleNotFoundError as error:
        if error.name in OPTIONAL:
            return error.name
        raise
    return None


@pytest.fixture
def _log_as_before():
    """Pages show what the log has to say, which tests after them do not ask for."""
    logger = logging.getLogger("eigenspan")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.mark.usefixtures("_log_as_before")
@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what a page saves does not land in the checkout
    run(page)


@pytest.mark.parametrize(("package", "outcome"), [("peft", pytest.skip.Exception), ("attrs", ModuleNotFoundError)])
def test_blocks_are_skipped_for_optional_packages_alone(package, outcome, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    blocks = [f"import {package}", "open('ran', 'w').close()"]
    page = tmp_path / "page.md"
    page.write_text("\n".join(f"```python\n{block}\n```\n" for block in blocks), encoding="utf-8")
    with pytest.raises(outcome, match=package):
        run(page)
    assert (tmp_path / "ran").exists() == (package in OPTIONAL)


def blocks_nobody_runs(page: Path) -> list[str]:
    """The first lines of python blocks that neither these tests nor the build of the site executes, or both."""
    text = page.read_text(encoding="utf-8")
    fences = {text.count("\n", 0, fence.start()) + 1: fence["options"] for fence in FENCE.finditer(text)}
    built = {line for line, options in fences.items() if 'exec="true"' in options}
    tested = {example.line for example in examples(page)}
    if page.parent == ROOT:
        built = set()  # no page of the site
    return [f"{page_name(page)}:{line}" for line in sorted(set(fences) ^ built ^ tested)]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_python_block_is_run_once(page):
    assert blocks_nobody_runs(page) == []


@pytest.mark.parametrize(
    "fence", ["```py", "```python title='a'", "``` python", "  ~~~python hl_lines='1'", "```{.python}"]
)
def test_a_block_that_nobody_runs_is_found(fence, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    indent, mark = re.match(r"( *)(```|~~~)", fence).groups()
    page.write_text(f"```python\na = 1\n```\n\n{fence}\n{indent}b\n{indent}{mark}\n\n```sh\nls\n```\n")
    assert blocks_nobody_runs(page) == ["docs/page.md:5"]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_a_page_is_run_by_one_or_the_other(page):
    """Its blocks share their names."""
    built = 'exec="true"' in page.read_text(encoding="utf-8")
    assert not (built and examples(page))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_what_shows_a_figure_is_hidden(page):
    """In one line, as the mark hides that line alone."""
    for line in page.read_text(encoding="utf-8").splitlines():
        assert "shown(figure" not in line or re.fullmatch(
            r'print\(shown\(figure, ".+"\)\)  # markdown-exec: hide', line
        )


PICTURE = re.compile(r"!\[[^\]]*\][(\[]|<(?:img|image|picture|object|embed|iframe)\b", re.IGNORECASE)


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent != ROOT], ids=page_name)
def test_every_figure_of_the_site_is_made_by_its_build(page):
    """From code on the page, by `shown`: none is a file, which nobody would draw again."""
    assert PICTURE.findall(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("picture", ["![a](b.png)", "![a][b]", '<img src="b.svg">', '<object data="b.svg">'])
def test_a_picture_in_a_file_is_found(picture):
    assert PICTURE.search(f"text {picture} text")


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^()#\s]+)(?:#[^()\s]*)?\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_fifteen_lines_are_for_any_model(capsys):
    """Those of the page, on a network that it does not use, beside the dense Hessian."""
    page = (ROOT / "docs" / "tutorials" / "your-own-model.md").read_text(encoding="utf-8")
    (lines,) = (block for block in re.findall(r"```python [^\n]*\n(.*?)```", page, re.DOTALL) if "es.Hessian" in block)
    assert len([line for line in lines.splitlines() if line]) <= 15
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        *(torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.ReLU(), torch.nn.Dropout(0.2)),
        *(torch.nn.Flatten(), torch.nn.Linear(108, 1)),
    ).double()
    data = [(torch.randn(n, 1, 8, 8).double(), torch.randn(n, 1).double()) for n in (10, 7)]
    names = {"model": model, "loss": torch.nn.MSELoss(), "data": data}
    exec(lines, names)
    dense = names["H"].to_dense()
    leading = torch.linalg.eigh(dense)
    vectors = leading.eigenvectors[:, leading.eigenvalues.abs().argsort(descending=True)[:20]]
    largest = torch.cat([p.detach().flatten() for p in model.parameters()]).abs().topk(20).indices
    overlap = float(vectors[largest].square().sum() / 20)
    # Residuals of 1e-9 over the gap turn the eigenspace by far less than that.
    assert names["overlap"] == pytest.approx(overlap, abs=1e-6)
    assert names["low"] <= overlap <= names["high"]
    assert f"overlap {overlap:.4f}" in capsys.readouterr().out


def names_in(file: Path) -> set[str]:
    """The names that the code of a file uses, but for importing them."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return used | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_nothing_exported_is_unused():
    """By the code of tests, examples and benchmarks, or in the words of a page beside the reference."""
    used = {
        name
        for top in ("tests", "examples", "benchmarks")
        for file in (ROOT / top).rglob("*.py")
        for name in names_in(file)
    }
    words = {
        word
        for page in PAGES
        if page.parent.name != "api"
        for word in re.findall(r"\w+", page.read_text(encoding="utf-8"))
    }
    assert {*eigenspan.__all__, *studies.__all__, *distributed.__all__} - used - words == set()


def functions_of(module: ModuleType) -> list[str]:
    own = inspect.getmembers(module, inspect.isfunction)
    return [name for name, function in own if function.__module__ == module.__name__ and not name.startswith("_")]


def test_the_reference_has_every_public_name_once_and_no_other():
    public = {
        "eigenspan": eigenspan.__all__,
        "eigenspan.studies": [name for name in studies.__all__ if name not in ("write_comparison", "write_report")],
        "eigenspan.studies.report": ["write_report"],  # where they are, of names that load it when they are asked for
        "eigenspan.studies.run_comparison": ["write_comparison"],
        "eigenspan.studies.lightning": ["CurvatureCallback"],
        "eigenspan.studies.transformers": ["CurvatureCallback", "own_loss"],
        "eigenspan.studies.tracking": ["EigenspaceTracker", "Snapshot"],
        "eigenspan.studies.panels": functions_of(panels),
        "eigenspan.linops.distributed": distributed.__all__,
    }
    texts = [page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md")]
    listed = [name for text in texts for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]
    assert sorted(listed) == sorted(f"{module}.{name}" for module, names in public.items() for name in names)


def test_every_folder_of_code_is_on_the_page_of_files():
    """But for tests, which mirror the others; the build lists the files of each."""
    page = (ROOT / "docs" / "where-things-are.md").read_text(encoding="utf-8")
    tops = ("linops", "solvers", "metrics", "studies", "benchmarks", "examples", "docs")
    files = [file for top in tops for file in (ROOT / top).rglob("*.py") if file.name != "__init__.py"]
    folders = {file.parent.relative_to(ROOT).as_posix() for file in files} | {"tests"}
    assert set(re.findall(r"<!-- the files of (\S+), by the build -->", page)) == folders
