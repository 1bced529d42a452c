"""The code in the documentation runs, block after block, as a reader would type it."""

import sys
from pathlib import Path

import pytest
from interop_cases import EXTRA, theirs_to_mend
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = Path(__file__).resolve().parent.parent
OPTIONAL = {"curvlinops", "hessian_eigenthings", "laplace", "peft", "skerch", "transformers"}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


pytestmark = theirs_to_mend


def run(page):
    """Runs the blocks of a page; those that begin with an optional package which is not there are skipped."""
    examples = Sybil(parsers=[PythonCodeBlockParser()]).parse(page).examples()
    missing = {name for example in examples if (name := missing_package(example))}
    if missing:
        pytest.skip(f"all but blocks with {', '.join(sorted(missing))} ran: {EXTRA}")


def missing_package(example):
    """Evaluates a block; gives the optional package that stopped it, if one did."""
    try:
        example.evaluate()
    except ModuleNotFoundError as error:
        if error.name in OPTIONAL:
            return error.name
        raise
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
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


def test_links_between_pages_lead_somewhere():
    import re

    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
