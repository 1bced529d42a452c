"""Measurements that are joined, added up and kept in files give what one solve gives, and are refused otherwise."""

from __future__ import annotations

import itertools

import numpy
import pytest
import torch
from solver_cases import N, problem, zoo

import eigenspan as es
from eigenspan.linops import Counted, Dense, Function, Structure
from eigenspan.solvers import EigenSolver, Nystrom, SketchedEigh, Status
from eigenspan.solvers.measurement import Measurement
from eigenspan.solvers.sketched_svd import SketchedSVD

SOLVERS = {
    "symmetric": lambda **options: SketchedEigh(k=6, outer=10, block_size=4, **options),
    "published": lambda **options: SketchedEigh(k=6, outer=10, block_size=4, basis="first", **options),
    "least-squares": lambda **options: SketchedSVD(k=6, outer=10, block_size=4, **options),
    "two-sided": lambda **options: SketchedSVD(k=6, outer=12, inner=27, block_size=4, core="two-sided", **options),
    "nystrom": lambda **options: Nystrom(k=6, sketch_size=20, block_size=4, **options),
}
TOTAL = {"symmetric": 20, "published": 20, "least-squares": 40, "two-sided": 51, "nystrom": 20}
TENSORS = {
    SketchedEigh: ("eigenvalues", "eigenvectors"),
    Nystrom: ("eigenvalues", "eigenvectors"),
    SketchedSVD: ("left_vectors", "singular_values", "right_vectors"),
}


@pytest.fixture(params=SOLVERS)
def name(request):
    return request.param


@pytest.fixture
def make(name):
    return SOLVERS[name]


def matrix(name, dtype=torch.float64, device="cpu", seed=0):
    """Of slow decay; rectangular for singular values."""
    symmetric = problem(torch.arange(1, N + 1, dtype=torch.float64) ** -0.5, dtype, device, seed).operator.matrix
    return symmetric if name in ("symmetric", "published", "nystrom") else symmetric[:40]


def operator(matrix):
    return Dense(matrix, Structure.PSD if len(matrix) == matrix.shape[1] else Structure.NONE)


def measured(name, device):
    return operator(matrix(name, device=device))


@pytest.fixture
def A(name, device):  # noqa: N802
    return measured(name, device)


def check_same(one, other, atol=0.0):
    for tensor in TENSORS[type(one.report.solver)]:
        torch.testing.assert_close(getattr(one, tensor), getattr(other, tensor), rtol=0, atol=atol)


def in_pieces(solver, A, ends):
    """Measurements of the columns between one end and the next."""
    return [solver.measure(A, range(start, stop)) for start, stop in itertools.pairwise(ends)]


class TestWhole:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_decomposed_it_is_what_solve_finds(self, name, make, dtype, device):
        A = operator(matrix(name, dtype, device))
        solved, found = make().solve(A), make().decompose(make().measure(A))
        check_same(found, solved)
        assert found.report.status is Status.SKETCHED
        assert found.report.notes == solved.report.notes
        assert (found.report.products, found.report.check_products, found.report.passes) == (0, 0, 0)
        assert bool(found.residual_norms.isnan().all())
        assert found.residual_norms.dtype == dtype

    def test_takes_as_many_products_as_it_has_columns(self, name, make, A):
        counted = Counted(A)
        measurement = make().measure(counted)
        assert counted.products == len(measurement.columns) == sum(measurement.parts.values()) == TOTAL[name]

    def test_serves_other_solvers_that_take_the_same_products(self, device):
        """What is not of the products is free: k, which, the core, and outer as long as all columns are kept."""
        A = measured("symmetric", device)
        solver = SketchedEigh(k=3, outer=14, inner=20, which="SA", core="two-sided")
        measurement = SOLVERS["symmetric"]().measure(A)
        check_same(solver.decompose(measurement), solver.solve(A), 1e-12)
        check_same(SOLVERS["nystrom"]().decompose(measurement), SOLVERS["nystrom"]().solve(A), 1e-12)

    def test_shows_progress(self, make, A, capsys):
        make().measure(A, range(0, 6))
        assert capsys.readouterr().err == ""
        make().measure(A, range(0, 6), progress=True)
        assert "6/6" in capsys.readouterr().err


class TestMerge:
    def test_pieces_in_any_order_are_the_whole_bit_by_bit(self, name, make, A):
        """If they begin with a block: a product of other width may round differently."""
        pieces = in_pieces(make(), A, [0, 4, 8, *(range(20, TOTAL[name], 20)), TOTAL[name]])
        joined = pieces[1]
        for piece in (pieces[-1], pieces[0], *pieces[2:-1]):
            joined = joined.merge(piece)
        whole = make().measure(A)
        assert joined.columns == whole.columns
        for part, array in whole.arrays.items():
            assert torch.equal(joined.arrays[part], array)
        check_same(make().decompose(joined), make().solve(A))

    def test_pieces_of_any_length_to_rounding(self, name, make, A):
        first, second, third = in_pieces(make(), A, [0, 7, 13, TOTAL[name]])
        check_same(make().decompose(third.merge(first.merge(second))), make().solve(A), 1e-11)

    def test_blocks_keep_contiguous_columns(self, make, A):
        first, second = in_pieces(make(), A, [0, 7, 9])
        assert first.merge(second).arrays["range"].mT.is_contiguous()

    def test_the_same_columns_twice(self, make, A):
        first, second = make().measure(A, range(0, 9)), make().measure(A, range(5, 12))
        with pytest.raises(ValueError, match=r"columns 0-8 of .* and .* both hold columns 5-8; measure each"):
            first.merge(second)

    def test_with_something_else(self, make, A):
        with pytest.raises(TypeError, match=r"<Measurement .* merges with another Measurement, got 3"):
            make().measure(A, range(0, 3)).merge(3)

    def test_columns_of_one_side_take_products_of_that_side(self, device):
        A = measured("least-squares", device)
        one_sided = Function(lambda X: A.matrix @ X, A.shape, A.dtype, A.device)
        SOLVERS["least-squares"]().measure(one_sided, range(0, 20))
        with pytest.raises(NotImplementedError, match="no transposed product"):
            SOLVERS["least-squares"]().measure(one_sided, range(15, 25))


class TestSum:
    def test_of_parts_of_the_data(self, name, make, device):
        first, second = (matrix(name, device=device, seed=seed) for seed in (1, 2))
        total = make().measure(operator(first)) + make().measure(operator(second))
        check_same(make().decompose(total), make().solve(operator(first + second)), 1e-11)

    def test_with_pieces_missing_and_merged_later(self, name, make, device):
        parts = [operator(matrix(name, device=device, seed=seed)) for seed in (1, 2)]
        ends = [0, 11, TOTAL[name]]
        pieces = [one + other for one, other in zip(*(in_pieces(make(), A, ends) for A in parts), strict=True)]
        found = make().decompose(pieces[0].merge(pieces[1]))
        check_same(found, make().solve(operator(parts[0].matrix + parts[1].matrix)), 1e-11)

    def test_leaves_what_it_adds(self, make, A):
        measurement = make().measure(A)
        before = measurement.arrays["range"].clone()
        measurement + measurement
        assert torch.equal(measurement.arrays["range"], before)

    def test_of_other_columns(self, make, A):
        with pytest.raises(ValueError, match=r"do not add up: only one of them has columns 0-1, 5.*joined by merge"):
            make().measure(A, range(0, 5)) + make().measure(A, range(2, 6))

    def test_with_something_else(self, make, A):
        with pytest.raises(TypeError, match="unsupported operand"):
            make().measure(A, range(0, 2)) + 1


class TestOtherSketches:
    """Of products with other random numbers, or of an operator of another kind, nothing can be put together."""

    @pytest.mark.parametrize(
        ("options", "difference"),
        [
            ({"seed": 1}, "seed is [01] and [01]"),
            ({"test_matrix": "gaussian"}, "test_matrix is (ssrft|gaussian) and (ssrft|gaussian)"),
            ({"seed": 3, "test_matrix": "rademacher"}, "seed is [03] and [03]; test_matrix is"),
        ],
    )
    def test_of_another_solver(self, make, A, options, difference):
        other = make(**options)
        first, second = make().measure(A, range(0, 5)), other.measure(A, range(5, 9))
        for attempt in (
            lambda: first.merge(second),
            lambda: first + other.measure(A, range(0, 5)),
            lambda: other.decompose(make().measure(A)),
        ):
            with pytest.raises(ValueError, match=f"not of the sketch that it is to go with: {difference}"):
                attempt()

    def test_of_other_sizes(self, name, make, A):
        other = SketchedEigh(k=6, outer=11) if isinstance(make(), SketchedEigh) else SketchedSVD(k=6, outer=11)
        with pytest.raises(ValueError, match=r"parts is \{'range': .* and \{'range': 22"):
            other.decompose(make().measure(A))

    def test_of_another_shape_or_dtype(self, make, A, device):
        smaller = operator(A.matrix[:30, :30].contiguous())
        single = operator(A.matrix.float())
        first = make().measure(A, range(0, 5))
        for other, difference in (
            (smaller, r"shape is \(\d+, 60\) and \(30, 30\)"),
            (single, "dtype is torch.float64"),
        ):
            with pytest.raises(ValueError, match=difference):
                first.merge(make().measure(other, range(5, 9)))

    def test_of_eigenvalues_and_of_singular_values(self, device):
        A = measured("symmetric", device)
        with pytest.raises(ValueError, match="parts is"):
            SOLVERS["least-squares"]().decompose(SOLVERS["symmetric"]().measure(A))

    def test_on_another_device(self, make, A):
        measurement = make().measure(A, range(0, 5))
        arrays = {part: array.to("meta") for part, array in measurement.arrays.items()}
        elsewhere = Measurement(**measurement.sketch, columns=measurement.columns, arrays=arrays)
        with pytest.raises(TypeError, match=f"are on {A.device} and meta"):
            measurement + elsewhere


class TestDecompose:
    def test_names_what_is_missing(self, name, make, A):
        first, second = make().measure(A, range(2, 9)), make().measure(A, range(10, 12))
        for measurement, missing in ((first, f"0-1, 9-{TOTAL[name] - 1}"), (first.merge(second), "0-1, 9, 12-")):
            with pytest.raises(ValueError, match=rf"columns 2-8.* lacks columns {missing}"):
                make().decompose(measurement)

    def test_something_else(self, make, A):
        with pytest.raises(TypeError, match="decompose takes a Measurement, got <Dense"):
            make().decompose(A)

    def test_more_pairs_than_the_measured_operator_has(self, device):
        measurement = SketchedEigh(k=3, outer=5).measure(es.Identity(5, torch.float64, device))
        with pytest.raises(ValueError, match="k <= outer <= inner <= n, got k=6"):
            SketchedEigh(k=6).decompose(measurement)


class TestMeasure:
    @pytest.mark.parametrize("columns", [range(0, 0), range(-1, 3), range(3, 60), range(0, 6, 2), range(5, 3)])
    def test_columns_that_are_not_there(self, name, make, A, columns):
        with pytest.raises(ValueError, match=rf"has columns range\(0, {TOTAL[name]}\), got range"):
            make().measure(A, columns)

    @pytest.mark.parametrize("columns", [5, [0, 1], slice(0, 5)])
    def test_columns_that_are_no_range(self, make, A, columns):
        with pytest.raises(TypeError, match="columns is a range, such as"):
            make().measure(A, columns)

    def test_operators_that_solve_refuses(self, name, make, A):
        with pytest.raises(TypeError, match="works in float32 or float64"):
            make().measure(Dense(A.matrix.half(), A.structure))
        with pytest.raises(ValueError, match="k="):
            make().measure(operator(torch.eye(4, dtype=torch.float64)))
        if isinstance(make(), EigenSolver):
            with pytest.raises(ValueError, match="nothing says that"):
                make().measure(Dense(A.matrix))

    def test_products_that_are_not_finite(self, name, make, A):
        broken = A.matrix.clone()
        broken[3, 3] = torch.nan
        with pytest.raises(ValueError, match="gave NaN or infinite entries"):
            make().measure(operator(broken))

    def test_two_passes(self, device):
        solver, A = SketchedEigh(k=3, two_pass=True), zoo("positive", torch.float64, device).operator
        measurement = SketchedEigh(k=3).measure(A)
        for attempt in (lambda: solver.measure(A), lambda: solver.decompose(measurement)):
            with pytest.raises(ValueError, match="two passes multiply A by vectors that depend on A"):
                attempt()


class TestFiles:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_round_trip_of_every_bit(self, name, make, tmp_path, dtype, device):
        A = operator(matrix(name, dtype, device))
        first, second = in_pieces(make(), A, [0, 13, TOTAL[name]])
        for piece, path in ((first, "first.npz"), (second, "second")):
            piece.save(tmp_path / path)
        loaded = [Measurement.load(str(tmp_path / path), device=device) for path in ("second", "first.npz")]
        assert loaded[1].sketch == first.sketch
        assert loaded[1].columns == first.columns
        for part, array in first.arrays.items():
            assert torch.equal(loaded[1].arrays[part], array)
            assert loaded[1].arrays[part].device == array.device
        check_same(make().decompose(loaded[0].merge(loaded[1])), make().decompose(first.merge(second)))
        assert sorted(file.name for file in tmp_path.iterdir()) == ["first.npz", "second"]

    def test_other_files_are_refused_and_run_no_code(self, make, A, tmp_path):
        texts, arrays, cut, code = (tmp_path / name for name in ("text", "arrays.npz", "cut.npz", "code.npz"))
        texts.write_text("columns")
        numpy.savez(arrays, columns=numpy.ones(3))
        numpy.savez(code, sketch=numpy.array([print], dtype=object))
        make().measure(A).save(cut)
        cut.write_bytes(cut.read_bytes()[:-200])
        for path in (texts, arrays, cut, code):
            with pytest.raises(ValueError, match=f"{path.name} holds no Measurement"):
                Measurement.load(path)
        with pytest.raises(FileNotFoundError):
            Measurement.load(tmp_path / "missing.npz")


def test_repr(device):
    measurement = SOLVERS["two-sided"]().measure(measured("two-sided", device), range(3, 9))
    measurement = measurement.merge(SOLVERS["two-sided"]().measure(measured("two-sided", device), range(11, 12)))
    assert repr(measurement) == "<Measurement of 40x60 float64, columns 3-8, 11 of 0-50>"
