"""The command line: what it prints, writes and refuses, and with which exit code."""

import json
import os
import re
import runpy
import subprocess
import sys

import attrs
import checkpoint_cases
import pytest
import torch
import worker_cases
from study_cases import SMALL, UNTIMED, unarranged
from typer.testing import CliRunner

from eigenspan.linops.files import write_json
from eigenspan.solvers import BlockLanczos, BlockStore, EigenDecomposition, StoredMatrix
from eigenspan.studies import cli, plots, problems, report
from eigenspan.studies.options import StudyOptions
from eigenspan.studies.overlap_study import OverlapStudy
from eigenspan.studies.tables import HEADINGS

SMALL_OPTIONS = ["--k", "6", "--steps", "2"]


@pytest.fixture(autouse=True)
def _small_study(monkeypatch):
    monkeypatch.setitem(problems.PROBLEMS, "small", SMALL)


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """The folder of a finished study, and what the command printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(problems.PROBLEMS, "small", SMALL)
        patch.setattr(report, "save_figures", lambda results, directory: [])
        folder = tmp_path_factory.mktemp("studied") / "out"
        return folder, invoke("study", "small", "--out", folder, *SMALL_OPTIONS, "--split", "both")


def test_a_study_prints_tables_and_writes_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "write_figure", unarranged)
    result = invoke("study", "small", "--out", tmp_path / "out", *SMALL_OPTIONS)
    assert result.exit_code == 0, result.output
    assert "step 2" in result.output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [record["step"] for record in results["records"]] == [0, 2]
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000
    assert {path.suffix for path in (tmp_path / "out" / "figures").iterdir()} == {".png", ".svg"}


def table(output):
    """The cells of the tables in an output."""
    rows = [line.split() for line in output.splitlines()]
    return [row for row in rows if len(row) == len(HEADINGS) and (row[0] == "k" or row[0].isdecimal())]


def test_the_table_holds_the_numbers_of_the_results(studied):
    folder, result = studied
    results, output = json.loads((folder / "results.json").read_text()), result.output
    rows = table(output)
    assert len([row for row in rows if row[0] == "k"]) == 4
    for record in results["records"]:
        assert f"step {record['step']}, {record['split']} data: loss {record['loss']:.4f}" in output
        assert f"{record['report']['products']} products" in output
        for k in (2, 6):
            overlap, wanted = record["overlap"][k - 1], [str(k)]
            wanted.append(f"{overlap:.4f}")
            for null in ("uniform", "stratified"):
                mean, std, p = (record[f"chance_{null}"][what][k - 1] for what in ("mean", "std", "p_value"))
                wanted += [f"{mean:.4f}", f"{overlap / mean:.2f}", f"{(overlap - mean) / std:+.1f}", f"{p:.3f}"]
            assert wanted in rows


def test_json_has_a_line_for_each_record(studied, undrawn):
    folder, _ = studied
    result = invoke("study", "small", "--out", folder, *SMALL_OPTIONS, "--split", "both", "--json")
    *lines, last = (json.loads(line) for line in result.stdout.splitlines())
    records = json.loads((folder / "results.json").read_text())["records"]
    assert last == {"report": str(folder / "report.html")}
    for line, record in zip(lines, sorted(records, key=lambda one: (one["step"], one["split"] == "test")), strict=True):
        assert all(line[name] == record[name] for name in ("step", "split", "loss"))
        assert line["largest_residual"] == pytest.approx(
            max(record["residual_norms"]) / abs(record["eigenvalues"][0]), rel=1e-12
        )
        assert [at["k"] for at in line["overlaps"]] == [2, 6]
        for at in line["overlaps"]:
            chance = record["chance_stratified"]
            assert at["overlap"] == record["overlap"][at["k"] - 1]
            assert at["stratified"]["chance"] == chance["mean"][at["k"] - 1]
            assert at["stratified"]["p"] == chance["p_value"][at["k"] - 1]


def test_quiet_prints_nothing_and_the_log_is_asked_for(studied, undrawn):
    folder, _ = studied
    arguments = ("study", "small", "--out", folder, *SMALL_OPTIONS, "--split", "both", "--quiet")
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    result = invoke(*arguments, "--json")
    assert result.exit_code == 2
    assert "leave out one of them" in result.stderr


def test_the_log_is_printed_where_it_is_asked_for(tmp_path, undrawn):
    arguments = ("study", "small", "--out", tmp_path / "out", "--k", "2", "--steps", "0", "--quiet")
    result = invoke("--verbose", *arguments)
    assert result.exit_code == 0, result.output
    assert "eigenspan: " in result.stderr
    assert "eigenspan: " not in invoke("study", "small", "--out", tmp_path / "again", *arguments[4:]).stderr


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_nothing_is_cut_off_whatever_the_width(studied, monkeypatch, undrawn, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    output = invoke("study", "small", "--out", studied[0], *SMALL_OPTIONS, "--split", "both").output
    record = json.loads((studied[0] / "results.json").read_text())["records"][-1]
    assert output.isascii()
    for null in ("uniform", "stratified"):
        assert f"{record[f'chance_{null}']['mean'][5]:.4f}" in output
    assert bool(table(output)) == (columns >= 80)
    assert all(len(line.rstrip()) <= columns for line in output.splitlines() if not line.startswith("Report"))


def test_a_second_run_goes_on_and_a_changed_option_is_refused(studied, undrawn, monkeypatch):
    folder, first = studied
    monkeypatch.setattr(OverlapStudy, "_measure", lambda *_: pytest.fail("measured again"))
    arguments = ["study", "small", "--out", folder, *SMALL_OPTIONS, "--split", "both"]
    second = invoke(*arguments)
    assert second.exit_code == 0
    assert second.output == first.output
    result = invoke(*arguments, "--seed", "1")
    assert result.exit_code == 2
    assert "another study (seed 0 -> 1)" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    result = invoke("study", "small", "--out", tmp_path / "file" / "out", *SMALL_OPTIONS)
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_interrupted_study_says_how_to_go_on_and_does(tmp_path, undrawn, monkeypatch):
    measure = OverlapStudy._measure

    def interrupted(self, *arguments):
        if list((self.directory / "records").iterdir()):
            raise KeyboardInterrupt
        return measure(self, *arguments)

    arguments = ["study", "small", "--out", tmp_path / "out", *SMALL_OPTIONS, "--no-compare"]
    with monkeypatch.context() as patch:
        patch.setattr(OverlapStudy, "_measure", interrupted)
        result = invoke(*arguments)
    assert result.exit_code == 130
    assert "run the same command again to go on" in result.stderr
    assert str(tmp_path / "out") in result.stderr
    resumed = invoke(*arguments)
    assert resumed.exit_code == 0
    assert "step 2" in resumed.output


def test_what_did_not_converge_is_said_in_a_line(tmp_path, undrawn, monkeypatch):
    solvers = {"block-lanczos": lambda k, seed: BlockLanczos(k=k, seed=seed, max_products=8, block_size=2)}
    monkeypatch.setattr("eigenspan.studies.options.SOLVERS", solvers)
    result = invoke("study", "small", "--out", tmp_path / "out", *SMALL_OPTIONS, "--no-compare")
    assert result.exit_code == 0
    assert " ".join(result.stdout.split()).count("out of products") == 2
    warned = result.stderr.splitlines()
    assert len(warned) == 2
    assert all(line.startswith("eigenspan: <EigenDecomposition 6 of 27") and "max_products" in line for line in warned)
    assert "2 of 2 solves not converged" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_errors_of_many_lines_become_one(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(OverlapStudy, "_measure", fail)
    result = invoke("study", "small", "--out", tmp_path / "out", *SMALL_OPTIONS)
    assert result.exit_code == 1
    assert result.stderr == "eigenspan: first second\n"


def test_a_report_is_written_again_and_runs_are_compared(studied, tmp_path, undrawn, monkeypatch):
    folder, _ = studied
    written = (folder / "report.html").read_text(encoding="utf-8")
    (folder / "report.html").unlink()
    result = invoke("report", folder)
    assert (result.exit_code, result.stdout) == (0, f"Report: {folder / 'report.html'}\n")
    assert (folder / "report.html").read_text(encoding="utf-8") == written
    other = tmp_path / "other"
    other.mkdir()
    (other / "results.json").write_text((folder / "results.json").read_text())
    monkeypatch.chdir(tmp_path)
    for options, name in (((), "comparison.html"), (("--out", "both.html"), "both.html")):
        result = invoke("report", folder, other, *options)
        assert (result.exit_code, result.stdout) == (0, f"Report: {name}\n")
        assert "2 runs of small" in (tmp_path / name).read_text(encoding="utf-8")


def test_reports_that_cannot_be_written_are_one_line(studied, tmp_path):
    folder, _ = studied
    results = json.loads((folder / "results.json").read_text())
    for name, content in (("fake", {**results, "warning": "noise, not data"}), ("old", {**results, "format": 1})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(content))
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "study.json").write_text("{}")
    for arguments, words in (
        ((folder, tmp_path / "fake"), "made-up data say nothing of real ones"),
        ((folder, tmp_path / "old"), "is of format 1"),
        ((tmp_path / "unfinished",), "has no results yet: finish the training"),
        ((tmp_path / "nowhere", folder), "has no results.json"),
        ((folder, "--out", tmp_path / "page.html"), "--out is of comparisons"),
        ((folder, folder, "--out", tmp_path / "no" / "page.html"), "no is no folder: make it"),
    ):
        result = invoke("report", *arguments)
        assert result.exit_code == 2
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert not list(tmp_path.glob("*.html"))


def test_a_folder_in_use_is_one_line(tmp_path):
    (tmp_path / "study.lock").write_text("7 elsewhere")
    result = invoke("study", "small", "--out", tmp_path, *SMALL_OPTIONS)
    assert result.exit_code == 2
    assert "another run is using this folder (process 7 on elsewhere)" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("how", ["option", "environment"])
def test_a_traceback_is_shown_if_asked(tmp_path, monkeypatch, how):
    def fail(*_):
        raise TypeError("inside")

    monkeypatch.setattr(OverlapStudy, "_measure", fail)
    if how == "environment":
        monkeypatch.setenv("EIGENSPAN_TRACEBACK", "1")
    option = ["--traceback"] if how == "option" else []
    result = invoke(*option, "study", "small", "--out", tmp_path / "out", *SMALL_OPTIONS)
    assert result.exit_code == 1
    assert isinstance(result.exception, TypeError)  # as Python shows it


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "mnist16"),
        (["small", "--k", "0"], "--k"),
        (["small", "--k", "28"], "number of trainable parameters"),
        (["small", "--steps", "-1"], "--steps"),
        (["small", "--solver", "magic"], "block-lanczos"),
        (["small", "--split", "half"], "both"),
        (["small", "--dtype", "int8"], "float64"),
        (["small", "--device", "nowhere"], "nowhere"),
        (["mnist16", "--data-root", "no/such/folder"], "no/such/folder"),
        (["cifar10-3c3d", "--download"], "name a folder"),
        (["mnist16", "--data-root", "no/such/folder", "--download"], "not to be had by --download"),
    ],
)
def test_wrong_options_end_with_code_2(tmp_path, arguments, words):
    result = invoke("study", *arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert words in result.output
    assert "Traceback" not in result.output


@pytest.fixture
def oddities(tmp_path, monkeypatch):
    """A folder with files of many kinds, and the modules of somebody."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").touch()
    torch.save(torch.zeros(3), "tensor.pt")
    (tmp_path / "broken_module.py").write_text("def (:\n")
    (tmp_path / "failing_module.py").write_text("def made():\n    raise KeyError('inside')\n\n\npair = (1, 2)\n")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "results.json").mkdir()
    (tmp_path / "damaged" / "study.json").mkdir()
    BlockStore("blocks", {"of": "something"}, {"basis": StoredMatrix(3, torch.float32, columns=4)})


@pytest.mark.usefixtures("oddities")
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("plan small --weights nofile", "nofile cannot be read (No such file or directory): expected a state dict"),
        ("study small --weights folder --out out", "folder cannot be read (Is a directory): expected a state dict"),
        ("plan small --weights text", "text cannot be loaded"),
        ("plan small --weights empty", "empty cannot be loaded"),
        ("plan small --weights tensor.pt", "holds no state dict"),
        ("plan small --steps 1000000000000", "records: take fewer steps"),
        ("study small --steps 1000000000000 --out out", "records: take fewer steps"),
        ("plan small --k 1000000000000", "which has 27; choose k <= 27"),
        ("plan broken_module:made", "the module broken_module ends with SyntaxError"),
        ("plan failing_module:made", "failing_module:made() ends with KeyError: 'inside'; eigenspan --traceback"),
        ("measure failing_module:made --folder new", "ends with KeyError"),
        ("measure failing_module:pair --folder new", "columns are known in advance of a sketch"),
        ("measure worker_cases:problem --folder text", "text cannot be written (File exists)"),
        ("measure worker_cases:problem --folder damaged", "damaged is the folder of a study"),
        ("measure worker_cases:problem --folder new --lapse nan", "lapse is a positive number of seconds"),
        ("measure worker_cases:problem --folder new --columns 0:9999", "a sketch of"),
        ("decompose blocks --out folder", "folder is a folder: name a file in it"),
        ("decompose blocks --out text/pairs.npz", "text: file exists"),
        ("decompose blocks --out new.npz --device nowhere", "device 'nowhere' is not there"),
        ("decompose blocks --out new.npz", "lacks columns: 0 of 4 columns done"),
        ("report damaged", "damaged/results.json: is a directory"),
        ("report damaged damaged --out folder", "folder is a folder: name a file in it"),
        ("report damaged damaged --out text/page.html", "text is no folder: make it"),
        ("resume damaged", "damaged/study.json: is a directory"),
        ("status damaged", "damaged/study.json: is a directory"),
        ("study small --out text", "text cannot be written (File exists): choose another folder"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(command, words):
    before = sorted(os.listdir())
    result = invoke(*command.split())
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(os.listdir()) in (before, sorted([*before, "new"]))


def test_version_and_help():
    assert invoke("--version").output.startswith("eigenspan ")
    assert "mnist16" in invoke("study", "--help").output


@pytest.mark.parametrize(
    ("words", "proposed"),
    [
        ("study cifar1", ["cifar10-3c3d", "cifar100-allcnnc"]),
        ("study mnist16 --solver sk", ["sketched", "sketched-two-pass"]),
        ("plan mnist16 --storage d", ["device", "disk"]),
    ],
)
def test_a_shell_completes_names(words, proposed):
    asked = {
        "_EIGENSPAN_COMPLETE": "complete_bash",
        "COMP_WORDS": f"eigenspan {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    result = CliRunner().invoke(cli.app, [], prog_name="eigenspan", env=asked)
    assert result.stdout.split() == proposed


def run_as_module(monkeypatch, *arguments):
    """``python -m eigenspan``, and how it ends."""
    monkeypatch.setattr(sys, "argv", ["eigenspan", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("eigenspan", run_name="__main__")
    return ended.value.code


def test_module(monkeypatch, capsys):
    assert run_as_module(monkeypatch, "--version") in (0, None)
    assert capsys.readouterr().out.startswith("eigenspan ")


def test_a_missing_extra_is_named(monkeypatch):
    """Only the command needs it."""
    monkeypatch.delitem(sys.modules, "eigenspan.studies.cli")
    monkeypatch.setitem(sys.modules, "typer", None)
    assert 'typer is missing; install it with: pip install "eigenspan[studies]"' in run_as_module(monkeypatch)


class TestWorkers:
    @pytest.fixture(autouse=True)
    def _in_a_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def test_measure_status_decompose(self, tmp_path):
        first = invoke("measure", "worker_cases:problem", "--folder", "blocks", "--columns", "0:6")
        assert first.exit_code == 0, first.output
        assert first.output.startswith(
            "8 columns measured here. 8 of 40 columns done, 32 left; 0 blocks at work, expect"
        )
        status = invoke("status", "blocks").output
        assert status == first.output.removeprefix("8 columns measured here. ")
        early = invoke("decompose", "blocks", "--out", "pairs.npz")
        assert early.exit_code == 2
        assert "lacks columns: 8 of 40 columns done" in early.output
        rest = invoke("measure", "worker_cases:problem", "--folder", "blocks")
        assert rest.output == "32 columns measured here. 40 of 40 columns done, 0 left; 0 blocks at work.\n"
        made = invoke("decompose", "blocks", "--out", "pairs.npz")
        assert made.exit_code == 0, made.output
        solver, A = worker_cases.problem()
        found = EigenDecomposition.load("pairs.npz")
        assert torch.equal(found.eigenvectors, solver.solve(A).eigenvectors)
        assert repr(found) in made.output

    @pytest.mark.parametrize(
        ("reference", "message"),
        [
            ("worker_cases", "MODULE:NAME names what a module has"),
            ("worker_cases:nothing", "MODULE:NAME names what a module has"),
            ("no_such_module:problem", "No module named 'no_such_module', neither in this folder, "),
            ("worker_cases:solver", "worker_cases:solver is to return (solver, operator), got SketchedEigh"),
        ],
    )
    def test_problems_that_are_none(self, reference, message, tmp_path):
        result = invoke("measure", reference, "--folder", "blocks")
        assert result.exit_code == 2
        assert message in result.output
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("columns", ["5", "a:b", "-1:3"])
    def test_columns_that_are_none(self, columns):
        result = invoke("measure", "worker_cases:problem", "--folder", "blocks", f"--columns={columns}")
        assert result.exit_code == 2
        assert "START:STOP, such as 0:128" in result.output

    def test_a_result_may_go_into_a_new_folder(self):
        invoke("measure", "worker_cases:problem", "--folder", "blocks")
        result = invoke("decompose", "blocks", "--out", "new/folder/pairs.npz")
        assert result.exit_code == 0, result.output
        assert len(EigenDecomposition.load("new/folder/pairs.npz").eigenvalues) == worker_cases.solver().k

    def test_a_folder_of_nothing_or_of_something_else(self):
        result = invoke("status", "blocks")
        assert result.exit_code == 2
        assert "blocks is the folder of no study, no solve with a checkpoint and no sketch" in result.output
        result = invoke("decompose", "blocks", "--out", "pairs.npz")
        assert result.exit_code == 2
        assert "holds no blocks" in result.output
        BlockStore("blocks", {"of": "something"}, {"basis": StoredMatrix(3, torch.float32)})
        assert invoke("status", "blocks").output == "0 columns done, of matrices that grow; 0 blocks at work.\n"
        result = invoke("measure", "worker_cases:problem", "--folder", "blocks")
        assert result.exit_code == 2
        assert "blocks do not mix" in result.output


@pytest.mark.slow
def test_two_ranks_find_what_one_process_finds(tmp_path):
    found = []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    launchers = [["-m"], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]]
    for number, launcher in enumerate(launchers):
        folder = tmp_path / str(number)
        options = [
            "--k",
            "4",
            "--steps",
            "2",
            "--dtype",
            "float64",
            "--no-compare",
            "--hessian-samples",
            "200",
            "--out",
            str(folder),
        ]
        command = [sys.executable, *launcher, "eigenspan", "study", "mnist16", *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=True)
        assert done.stdout.count("Report: ") == 1
        assert done.stdout.count("step 2,") == 1
        found.append(json.loads((folder / "results.json").read_text(encoding="utf-8"))["records"])
    for alone, shared in zip(*found, strict=True):
        size = abs(alone["eigenvalues"][0])
        assert shared["loss"] == pytest.approx(alone["loss"], rel=1e-12)
        assert shared["eigenvalues"] == pytest.approx(alone["eigenvalues"], abs=1e-6 * size)
        assert shared["overlap"] == pytest.approx(alone["overlap"], abs=1e-6)
        assert shared["report"]["products"] == alone["report"]["products"]


class TestCheckpoints:
    def interrupted(self, folder, solver, blocks=6):
        with pytest.raises(checkpoint_cases.InterruptedSolveError):
            solver.solve(checkpoint_cases.Fragile(worker_cases.dense(), blocks), checkpoint=folder)

    def test_status_of_a_solve_of_a_known_length(self, tmp_path):
        self.interrupted(tmp_path, worker_cases.solver(), 4)
        result = invoke("status", tmp_path)
        assert result.exit_code == 0
        assert result.stdout == "14 products done, 34 left, expected to take 0:00:00; nobody at work.\n"
        worker_cases.solver().solve(worker_cases.dense(), checkpoint=tmp_path)
        assert invoke("status", tmp_path).stdout == "Finished: 48 products done.\n"

    def test_status_of_a_solve_that_converges(self, tmp_path):
        self.interrupted(tmp_path, checkpoint_cases.lanczos(), 12)
        line = invoke("status", tmp_path).stdout
        assert line.startswith("24 products done, at most 38 left, expected to take at most 0:00:0")
        assert re.search(r"; \d of 5 pairs converged; nobody at work\.$", line)

    def test_status_of_a_study(self, tmp_path):
        options = attrs.evolve(StudyOptions(k=6, steps=2), split="both")
        write_json({"study": "small", **attrs.asdict(options)}, tmp_path / "study.json")
        (tmp_path / "records").mkdir()
        (tmp_path / "records" / "00000000-train.json").touch()
        total = 2 * len({*range(0, 2, SMALL.record_every), 2})
        first = f"1 of {total} records done, {total - 1} left.\n"
        assert invoke("status", tmp_path).stdout == first
        self.interrupted(tmp_path / "unfinished" / "00000000-test" / "hessian", worker_cases.solver(), 4)
        lines = invoke("status", tmp_path).stdout.removeprefix(first)
        assert lines.startswith("unfinished/00000000-test/hessian: 14 products done, 34 left")
        found = json.loads(invoke("status", tmp_path, "--json").stdout)
        assert (found["records"], found["total"]) == (1, total)
        (solve,) = found["solves"].values()
        assert (solve["products"], solve["left"], solve["exact"], solve["finished"]) == (14, 34, True, False)

    def test_resume_is_for_studies(self, tmp_path):
        self.interrupted(tmp_path, checkpoint_cases.lanczos())
        result = invoke("resume", tmp_path)
        assert result.exit_code == 2
        assert "holds no study" in result.stderr
        assert "go on when the same call or command is run again" in result.stderr
        assert len(result.stderr.splitlines()) == 1

    def test_resume_of_a_study(self, tmp_path, undrawn, monkeypatch):
        """What was interrupted goes on with the options that it was begun with, and ends as if undisturbed."""
        measure = OverlapStudy._measure

        def interrupted(self, *arguments):
            if list((self.directory / "records").iterdir()):
                raise KeyboardInterrupt
            return measure(self, *arguments)

        options = [*SMALL_OPTIONS, "--seed", "3", "--dtype", "float64", "--no-compare"]
        with monkeypatch.context() as patch:
            patch.setattr(OverlapStudy, "_measure", interrupted)
            assert invoke("study", "small", "--out", tmp_path / "out", *options).exit_code == 130
        result = invoke("resume", tmp_path / "out")
        assert result.exit_code == 0, result.stderr
        expected = invoke("study", "small", "--out", tmp_path / "whole", *options)
        records = [json.loads((tmp_path / name / "results.json").read_text())["records"] for name in ("out", "whole")]
        for found, wanted in zip(*records, strict=True):
            assert {**found, **UNTIMED} == {**wanted, **UNTIMED}
        assert re.sub(r"[\d.]+ s,|Report.*", "", result.output) == re.sub(r"[\d.]+ s,|Report.*", "", expected.output)

    @pytest.mark.parametrize("change", [{"study": "unknown"}, {"k": None}, {"eigenspan": "0.0.1"}])
    def test_resume_of_what_is_not_known_here(self, tmp_path, change, undrawn):
        invoke("study", "small", "--out", tmp_path / "out", "--k", "2", "--steps", "0", "--no-compare")
        path = tmp_path / "out" / "study.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        result = invoke("resume", tmp_path / "out")
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
