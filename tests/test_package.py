"""What is shipped: every module and data file, importable on its own; what imports what; what is public."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = {"lightning", "matplotlib", "pandas", "rich", "torchvision", "transformers", "typer"}
ADAPTERS = [Path("studies/lightning.py"), Path("studies/transformers.py")]  # each needs the trainer of its name
CORE_DEPENDENCIES = {"attr", "attrs", "numpy", "scipy", "torch", "tqdm"}
MAY_IMPORT = {
    "linops": set(),
    "solvers": {"linops"},
    "metrics": {"linops"},
    "studies": {"linops", "solvers", "metrics", "__version__"},
    "": {"linops", "solvers", "metrics", "studies"},  # the root
}


def source_files() -> list[Path]:
    """The Python files of the package relative to the root, wherever it is checked out."""
    folders = sorted(init.parent for init in ROOT.glob("*/__init__.py"))
    files = [*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))]
    return sorted(file.relative_to(ROOT) for file in files)


def module_name(file: Path) -> str:
    parts = file.parts[:-1] if file.name == "__init__.py" else file.with_suffix("").parts
    return ".".join(("eigenspan", *parts))


def run_python(code: str, folder: Path, path: Path | None = None) -> str:
    """The output of code in a fresh interpreter that starts in a folder, with another one first on its path."""
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else dict(os.environ)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the working tree, built without leaving anything in it."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "setup.cfg").write_text(f"[build]\nbuild_base={folder}/build\n[egg_info]\negg_base={folder}\n")
    subprocess.run(
        [*(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"), "-w", folder, ROOT],
        env={**os.environ, "DIST_EXTRA_CONFIG": str(folder / "setup.cfg")},
        check=True,
    )
    return next(folder.glob("eigenspan-*.whl"))


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """A folder that holds what the wheel installs, and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel]
    subprocess.run(command, check=True)
    return folder


def test_the_wheel_holds_every_source_file_and_the_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name.removeprefix("eigenspan/") for name in archive.namelist() if name.startswith("eigenspan/")}
    data = {file.relative_to(ROOT) for file in (ROOT / "studies" / "data").iterdir() if file.suffix in (".npz", ".md")}
    assert data
    assert shipped == {file.as_posix() for file in {*source_files(), *data, Path("py.typed")}}


def test_every_module_of_the_wheel_imports(site, tmp_path):
    own = [file for file in source_files() if file not in ADAPTERS]
    code = "import importlib, sys\nfor name in {}: print(importlib.import_module(name).__file__)\n"
    first, last = (code.format([module_name(file) for file in files]) for files in (own, ADAPTERS))
    lines = run_python(f"{first}print('matplotlib.pyplot' in sys.modules)\n{last}", tmp_path, site).splitlines()
    # Its global state would be the user's; importing it may also open a display. Trainers may import it themselves.
    assert lines.pop(len(own)) == "False"
    assert [Path(line).resolve() for line in lines] == [
        (site / "eigenspan" / file).resolve() for file in [*own, *ADAPTERS]
    ]


@pytest.mark.parametrize(
    ("file", "needed", "extra"),
    [*((file, file.stem, file.stem) for file in ADAPTERS), (Path("studies/panels.py"), "matplotlib", "studies")],
    ids=str,
)
def test_a_module_without_what_it_needs_names_the_extra(file, needed, extra, tmp_path):
    code = f"""
import sys
sys.modules["{needed}"] = None
try:
    import {module_name(file)}
except ImportError as error:
    print(error)
"""
    assert f'pip install "eigenspan[{extra}]"' in run_python(code, tmp_path)


def test_the_wheel_brings_its_licence_and_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        assert "eigenspan = eigenspan.__main__:main" in archive.read(entry_points).decode()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    # The embedded digits have a licence of their own.
    assert "License-Expression: MIT AND CC-BY-SA-3.0\n" in metadata
    assert any(name.endswith("licenses/studies/data/README.md") for name in names)


def test_importing_eigenspan_imports_no_extra(tmp_path):
    loaded = run_python("import sys, eigenspan; print(*sys.modules)", tmp_path).split()
    assert "eigenspan.linops" in loaded
    assert EXTRAS.isdisjoint(loaded)


def imports(file: Path) -> Iterator[tuple[int, bool, str]]:
    """The line, whether it is relative, and the full name of each import in a source file."""
    name = module_name(file)
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, False, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from ((node.lineno, node.level > 0, f"{module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("file", source_files(), ids=str)
def test_imports_follow_the_arrows(file):
    room = file.parts[0] if len(file.parts) > 1 else ""
    for line, relative, name in imports(file):
        top, target = name.split(".")[:2] if "." in name else (name, "")
        assert relative == (top == "eigenspan"), f"{file}:{line}: inside the package imports are relative"
        if relative:
            assert target in {room, *MAY_IMPORT[room]}, f"{file}:{line}: {room} does not import {target}"
        elif room != "studies":
            assert top in CORE_DEPENDENCIES | sys.stdlib_module_names, f"{file}:{line}: {top} is no dependency"
