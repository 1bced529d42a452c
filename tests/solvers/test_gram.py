"""All eigenpairs of BᵀB from the Gram matrix of the rows of B."""

from __future__ import annotations

import curvature_cases as cases
import pytest
import solver_cases
import solver_contract
import torch
from solver_cases import N, Problem, joined, quietly
from solver_contract import SolverContract
from torch import nn

import eigenspan as es
from eigenspan.linops import Dense, Diagonal, LinearOperator, Structure
from eigenspan.solvers import DenseEigh, GramEigh, Status


class Square(Dense):
    """BᵀB as a matrix that knows B."""

    def __init__(self, B):
        super().__init__(B.mT @ B, Structure.PSD)
        self.root = Dense(B)

    def factor(self):
        return self.root


def square(eigenvalues, dtype=torch.float64, device="cpu", seed=0):
    """As `solver_cases.problem`, with the absolute values of the spectrum and a factor of as many rows as columns."""
    whole = problem(eigenvalues.abs().double(), seed=seed)
    B = (whole.eigenvectors * whole.eigenvalues.sqrt()).mT
    # Rotated, so that no row is an eigenvector.
    B = (problem(eigenvalues, seed=9).eigenvectors @ B).to(device, dtype)
    operator = Square(B)
    return Problem(operator, operator.matrix.double().cpu(), whole.eigenvalues, whole.eigenvectors)


problem, named = solver_cases.problem, {}


def squares(name, dtype, device):
    """As `solver_cases.zoo`."""
    key = name, dtype, device
    if key not in named:
        named[key] = square(solver_cases.SPECTRA[name], dtype, device)
    return named[key]


class TestContract(SolverContract):
    """With the absolute values of all spectra, of operators that have a factor."""

    random = False

    @pytest.fixture(autouse=True)
    def _of_squares(self, monkeypatch):
        for module in (solver_cases, solver_contract):
            monkeypatch.setattr(module, "zoo", squares)
            monkeypatch.setattr(module, "problem", square)

    def make(self, k, which="LM", seed=0, **parameters):
        return GramEigh(k=k, which=which, seed=seed, **parameters)

    @pytest.mark.parametrize("options", [{}, {"check_symmetry": False, "measure_residuals": False}], ids=str)
    def test_counts_are_those_of_the_operator(self, options, dtype, device):
        truth, widths = squares("rank deficient", dtype, device), []

        class Counting(Square):
            def _matmat(self, X):
                widths.append(X.shape[1])
                return super()._matmat(X)

        report = GramEigh(k=6, **options).solve(Counting(truth.operator.root.matrix)).report
        assert widths == [1] if options else [2, 1, 6]
        assert (report.products, report.passes) == (sum(widths), len(widths))
        assert report.check_products == sum(widths) - 1

    def test_negative_eigenvalues_lead_by_magnitude(self, device):
        """There are none."""

    def test_takes_what_as_operator_takes(self, A):
        """As far as it has a factor."""
        with pytest.raises(TypeError, match="no factor"):
            GramEigh(k=2).solve(es.as_operator(A.matrix.cpu().numpy(), structure=Structure.SYMMETRIC))

    @pytest.mark.parametrize("size", [1e-4, 1.0])
    def test_symmetry_claimed_in_error(self, A, size):
        upper = Square(A.root.matrix)
        upper.matrix = A.matrix + size * torch.ones_like(A.matrix).triu(1)
        with pytest.raises(ValueError, match="says that it is symmetric, but"):
            GramEigh(k=2).solve(upper)

    @pytest.mark.parametrize("product", [1, 3])
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_product_that_is_not_finite(self, A, product, value):
        seen = []

        class Noisy(Square):
            def _matmat(self, X):
                result = super()._matmat(X)
                seen.extend(range(X.shape[1]))
                if len(seen) >= product:
                    result[0, 0] = value
                return result

        with pytest.raises(ValueError, match="gave NaN or infinite entries, in product"):
            GramEigh(k=6).solve(Noisy(A.root.matrix))


def gram_operator(rows, n, dtype=torch.float64, device="cpu", decay=0.0, scale=1.0):
    """BᵀB for a random B whose rows fall by powers of ten."""
    generator = torch.Generator().manual_seed(1)
    B = torch.randn(rows, n, generator=generator, dtype=torch.float64)
    B = scale * B * 10 ** (-decay * torch.arange(rows, dtype=torch.float64))[:, None]
    B = Dense(B.to(device, dtype))
    return B.T @ B


@pytest.fixture(params=[torch.float64, torch.float32], ids=str)
def dtype(request):
    return request.param


@pytest.mark.parametrize("which", ["LM", "LA", "SA"])
@pytest.mark.parametrize("k", [1, 12, 15, 40])
@pytest.mark.parametrize("decay", [0.0, 0.4])
def test_beside_a_dense_diagonalisation(which, k, decay, dtype, device):
    A = gram_operator(12, 40, dtype, device, decay)
    result, exact = GramEigh(k=k, which=which).solve(A), DenseEigh(k=k, which=which).solve(A)
    atol = 100 * torch.finfo(dtype).eps * float(DenseEigh(k=1).solve(A).eigenvalues)
    torch.testing.assert_close(result.eigenvalues, exact.eigenvalues, rtol=0, atol=atol)
    residuals = (A @ result.eigenvectors - result.eigenvectors * result.eigenvalues).norm(dim=0)
    assert float(residuals.max()) < atol
    V = result.eigenvectors
    identity = torch.eye(k, dtype=dtype, device=device)
    torch.testing.assert_close(V.mT @ V, identity, rtol=0, atol=100 * torch.finfo(dtype).eps)
    assert result.report.status is Status.COMPLETE


def test_one_product_verifies(device):
    A = gram_operator(12, 40, device=device)
    report = GramEigh(k=12, measure_residuals=False).solve(A).report
    assert report.products == 3  # two test the symmetry
    assert "in root mean square" in report.notes[-1]
    assert "a Gram matrix of 12 rows" in report.notes[0]


@pytest.mark.parametrize("scale", [1e-14, 1e14])
def test_any_scale(scale, dtype, device):
    """Its eigenvalues are squares."""
    A = gram_operator(10, 30, dtype, device, scale=scale)
    result, exact = GramEigh(k=10).solve(A), DenseEigh(k=10).solve(A)
    torch.testing.assert_close(result.eigenvalues, exact.eigenvalues, rtol=1e-4, atol=0)


def test_zero(device):
    A = gram_operator(5, 20, device=device, scale=0.0)
    assert GramEigh(k=3).solve(A).eigenvalues.tolist() == [0.0] * 3


def test_repeated_eigenvalues(device):
    B = torch.linalg.qr(torch.randn(30, 12, dtype=torch.float64))[0].mT.to(device)
    B = Dense(B * torch.tensor([2.0] * 6 + [1.0] * 6, device=device)[:, None])
    values = GramEigh(k=14).solve(B.T @ B).eigenvalues.cpu()
    expected = torch.tensor([4.0] * 6 + [1.0] * 6 + [0.0] * 2, dtype=torch.float64)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-13)


MODELS = {
    "mlp": (59, lambda: nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)), 10),
    "more rows than parameters": (19, lambda: nn.Sequential(nn.Linear(8, 1), nn.Tanh(), nn.Linear(1, 5)), 10),
}


@pytest.mark.parametrize(("scale", "which"), [(1.0, "LM"), (1.0, "SA"), (1e-30, "LM")])
@pytest.mark.parametrize("name", MODELS)
def test_of_a_ggn(name, scale, which, dtype, device):
    """Some pairs, those beyond the rank, and all; for a loss of any scale."""
    n, make, samples = MODELS[name]
    torch.manual_seed(0)
    model = make().to(device, dtype)
    entropy = nn.CrossEntropyLoss()
    loss = entropy if scale == 1 else es.Loss(lambda output, target: scale * entropy(output, target), convex=True)
    batch = (torch.randn(samples, 8, dtype=dtype).to(device), torch.randint(3, (samples,)).to(device))
    A = es.GGN(model, loss, batch, engine="retained", chunk_size=8)
    M = A.to_dense().double()
    exact = torch.linalg.eigvalsh(M)
    atol = 100 * torch.finfo(dtype).eps * float(exact[-1])
    for k in (3, n // 2, n):
        result = GramEigh(k=k, which=which).solve(A)
        values, V = result.eigenvalues.double(), result.eigenvectors.double()
        expected = exact[:k] if which == "SA" else exact.flip(0)[:k]
        torch.testing.assert_close(values, expected, rtol=0, atol=atol)
        torch.testing.assert_close(V.mT @ V, torch.eye(k, dtype=V.dtype, device=device), rtol=0, atol=atol / exact[-1])
        assert float((M @ V - V * values).norm(dim=0).max()) < atol
        assert float(result.residual_norms.max()) < atol


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((es.GGN, name) for name in ("convolution", "transformer", "tied", "lstm")),
        (es.EmpiricalFisher, "convolution"),
        (es.MonteCarloFisher, "tied"),
    ],
)
def test_of_layers_that_need_care(name, kind):
    """Beside a dense diagonalisation, within budgets that keep all rows of the factor, and that do not."""
    model, (X, y) = cases.tiny_zoo()[name]
    data = [(X[:2], y[:2]), (X[2:], y[2:])]
    A = kind(model, nn.CrossEntropyLoss(), data, engine="retained", chunk_size=8)
    exact = DenseEigh(k=12).solve(A)
    atol = 1e-13 * float(exact.eigenvalues[0])
    for budget in (None, 40_000):
        found = GramEigh(k=12, memory_budget=budget).solve(A)
        torch.testing.assert_close(found.eigenvalues, exact.eigenvalues, rtol=0, atol=atol)
        residuals = (A @ found.eigenvectors - found.eigenvectors * found.eigenvalues).norm(dim=0)
        assert float(residuals.max()) < atol


def test_small_eigenvalues_beside_large_ones(dtype, device):
    """Their vectors would carry rounding errors of the others, and are made orthonormal."""
    least = {torch.float32: -7.0, torch.float64: -12.0}[dtype]
    truth = square(joined(torch.logspace(0, least, 20, dtype=torch.float64), [0.0] * (N - 20)), dtype, device)
    result = GramEigh(k=20).solve(truth.operator)
    V = result.eigenvectors.double().cpu()
    torch.testing.assert_close(V.mT @ V, torch.eye(20, dtype=V.dtype), rtol=0, atol=100 * torch.finfo(dtype).eps)
    # Single precision leaves some digits of the smallest, λ = σ², which no product with A could tell.
    B = truth.operator.root.matrix.double().cpu()
    exact = torch.linalg.svdvals(B)[:20].square()
    errors = (result.eigenvalues.double().cpu() - exact).abs()
    rounding = 100 * torch.finfo(dtype).eps * (exact * exact[0]).sqrt() + 10 * torch.finfo(torch.float64).eps * exact[0]
    assert bool((errors < rounding).all())
    assert result.report.notes[0] == "a Gram matrix of 60 rows, of rank 20"
    assert result.report.notes[1].startswith("40 products")


def test_products_with_the_factor_are_reported(device):
    report = GramEigh(k=12).solve(gram_operator(12, 40, device=device)).report
    assert report.notes[1].startswith("12 products with the factor")
    assert "12 products with the factor" in str(report)


def test_a_model_is_asked_for_three_products_only():
    """Nothing is timed or linearised for them."""
    A = es.GGN(cases.mlp(), nn.CrossEntropyLoss(), cases.classes())
    solver = GramEigh(k=5, measure_residuals=False)
    report = solver.solve(A).report
    assert (report.products, report.passes) == (3, 2)
    assert A.plan(columns=2, products=2).engine == "retained"
    assert quietly(solver, A).report.products == 3


def test_a_seed_matters_only_beyond_the_rank():
    A = gram_operator(12, 40)
    first, second = (GramEigh(k=12, seed=seed).solve(A) for seed in (0, 1))
    assert torch.equal(first.eigenvectors, second.eigenvectors)
    first, second = (GramEigh(k=14, seed=seed).solve(A) for seed in (0, 1))
    assert not torch.equal(first.eigenvectors, second.eigenvectors)


def test_a_wrong_pair_shows_in_its_own_residual_norm():
    """By too little for the product that verifies all of them together to be refused."""
    A = square(torch.linspace(1, 2, 30, dtype=torch.float64)).operator
    A.root = Dense(A.root.matrix.clone())
    exact = DenseEigh(k=30).solve(A)
    u = exact.eigenvectors[:, 3]
    A.root = Dense(A.root.matrix @ (torch.eye(30, dtype=torch.float64) + 1e-9 * torch.outer(u, u)))
    result = GramEigh(k=30).solve(A)
    wrong = result.residual_norms > 1e-12
    assert wrong.nonzero().flatten().tolist() == [3]
    torch.testing.assert_close(result.residual_norms[3], 2e-9 * exact.eigenvalues[3], rtol=1e-3, atol=0)


class Wrong(LinearOperator):
    """An operator with the factor of another."""

    def __init__(self):
        super().__init__((20, 20), torch.float64, "cpu", Structure.PSD)

    def _matmat(self, X):
        return X

    def factor(self):
        return Dense(2 * torch.eye(20, dtype=torch.float64)[:5])


class TestErrors:
    def test_a_wrong_factor(self):
        with pytest.raises(RuntimeError, match="is wrong"):
            GramEigh(k=3).solve(Wrong())

    def test_no_factor(self):
        with pytest.raises(TypeError, match="no factor"):
            GramEigh(k=3).solve(Diagonal(torch.tensor([1.0, -1.0, 2.0, 3.0])))

    def test_too_many_rows(self):
        """Refused before any product."""
        seen = []
        A = gram_operator(12, 40)
        A._matmat = lambda X: seen.append(X)
        with pytest.raises(ValueError, match=r"has m=12 rows, above limit=11.*BlockLanczos"):
            GramEigh(k=3, limit=11).solve(A)
        assert seen == []
        A = es.GGN(cases.mlp(), nn.CrossEntropyLoss(), cases.classes())
        with pytest.raises(ValueError, match="has m=33 rows, above limit=32"):
            GramEigh(k=3, limit=32).solve(A)

    def test_a_factor_that_sees_less_than_the_operator(self):
        """Of data that are not all of those."""
        X, y = cases.classes()

        class Halved(es.GGN):
            def factor(self):
                return es.GGN(cases.mlp(), nn.CrossEntropyLoss(), (X[:6], y[:6])).factor()

        with pytest.raises(RuntimeError, match="none of <Halved"):
            GramEigh(k=5).solve(Halved(cases.mlp(), nn.CrossEntropyLoss(), (X, y)))

    @pytest.mark.parametrize("name", ["limit", "memory_budget"])
    @pytest.mark.parametrize(
        ("value", "error"), [(0, ValueError), (-3, ValueError), (1.5, TypeError), (True, TypeError)]
    )
    def test_bad_numbers(self, name, value, error):
        with pytest.raises(error, match=name):
            GramEigh(k=3, **{name: value})

    def test_a_hessian(self):
        H = es.Hessian(cases.mlp(), nn.CrossEntropyLoss(), cases.classes())
        with pytest.raises(TypeError, match=r"no factor B .* <Hessian"):
            GramEigh(k=3).solve(H)

    def test_a_budget_too_small(self):
        A = es.GGN(cases.mlp(), nn.CrossEntropyLoss(), cases.classes())
        with pytest.raises(ValueError, match="do not hold a column of 33 rows"):
            GramEigh(k=3, memory_budget=100).solve(A)

    def test_entries_that_are_not_finite(self):
        B = torch.ones(3, 8, dtype=torch.float64)
        B[1, 2] = float("nan")
        A = Dense(B)
        with pytest.raises(ValueError, match="NaN or infinite"):
            GramEigh(k=2, check_symmetry=False).solve(A.T @ A)

    def test_more_pairs_than_there_are(self):
        with pytest.raises(ValueError, match="choose k <= 40"):
            GramEigh(k=41).solve(gram_operator(12, 40))
