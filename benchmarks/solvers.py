"""Eigensolvers side by side: accuracy against products, passes, seconds and memory.

Run `python benchmarks/solvers.py` after `pip install -e ".[bench]"`, on a machine that does nothing else. The exit code
says whether every limit held.

- `--parts abc` chooses: (a) the Hessian of `mnist16` at step 1000 against its dense diagonalisation; (b) synthetic
  spectra of n = 2,000, the error of rank k = 40 over the best one; (c) the GGN of 3c3d on 100 images, of rank 900.
- `--device cpu`, `--repetitions 3`: seconds are medians.

"error" is ‖A - Â‖_F over that of the best approximation of rank k, less one, so that 0 is the best; "overlap" that of
the computed with the exact eigenspace; "residual" the largest ‖A v - λ v‖ over the largest |λ|. Products are columns
that the solver multiplied, without checks. Memory is what the resident size of the process grew by at most.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from typing import Any

import attrs
import torch
from memory import Peak, resident_size
from mnist16_solvers import PUBLISHED, Check, problem
from models import conv3c3d
from others import OTHERS, Found, scipy_over_curvlinops
from torch import Tensor

import eigenspan as es

SIZE, PAIRS = 2000, 40
IMAGES, RANK = 100, 900


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="abc")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    checks: list[Check] = []
    for letter in options.parts:
        checks += {"a": mnist, "b": spectra, "c": gauss_newton}[letter](options)
    print()
    for check in checks:
        relation = ">=" if check.least else "<="
        missed = "" if check.holds else "  MISSED"
        print(f"{check.name:96} {check.measured:10.3g} {relation} {check.limit:g}{missed}")
    sys.exit(not all(check.holds for check in checks))


# -- (a) ---------------------------------------------------------------------------------------------------------------


def mnist(options: Any) -> list[Check]:
    """The step-1000 Hessian of `mnist16`: to tolerance, and at a fixed number of products."""
    H, exact = problem(torch.float32, 0, options.device, None)
    print(f"\n(a) {H}")
    spectrum = exact.eigenvalues.double()
    H.plan(columns=32)
    checks = []
    for k in (10, 100, 350):
        optimal = float(spectrum[k:].norm())
        heading(f"k = {k}")
        rows = [timed(solver, H, options.repetitions) for solver in contenders(k)]
        rows += [run(H, k) for run in OTHERS.values()]
        for row in rows:
            error, overlap = against(exact, row, k, k)
            show(row, f"{error / optimal - 1:10.1e} {overlap:8.4f} {residual(H, row):9.1e}")
        if k == 350:
            checks += to_tolerance(H, rows)
    checks += fixed_products(H, exact, spectrum)
    return checks


def contenders(k: int) -> list[es.EigenSolver]:
    """Solvers of this library, those with a tolerance at its default, but ARPACK, which would go on to rounding."""
    return [
        es.BlockLanczos(k=k),
        es.BlockLanczos(k=k, max_basis=2 * k + 20),
        es.Lanczos(k=k),
        es.SubspaceIteration(k=k, max_products=10 * k),
        es.SketchedEigh(k=k, outer=2 * k, inner=4 * k, measure_residuals=False),
        es.SketchedEigh(k=k, outer=2 * k, inner=4 * k, measure_residuals=False, **PUBLISHED),
        es.SketchedEigh(k=k, outer=2 * k, two_pass=True, measure_residuals=False),
        es.Arpack(k=k, tol=1e-5),
    ]


def to_tolerance(H: es.Hessian, rows: list[Found]) -> list[Check]:
    """BlockLanczos against SciPy's eigsh over curvlinops, and where its time goes."""
    ours = rows[0]
    theirs, setup = scipy_over_curvlinops(H, 350, tol=1e-5)
    show(theirs, "")
    began = time.perf_counter()
    fresh = problem_again(H)
    es.BlockLanczos(k=350).solve(fresh)
    inside = time.perf_counter() - began
    # The basis, orthogonalised once; the result, combined of it; one symmetric eigenproblem (Golub & Van Loan, 8.3).
    n, m = len(ours.vectors), ours.products
    algebra = 2 * n * m**2 + 2 * n * m * 350 + 9 * m**3
    rate = matrix_rate(n, H.device)
    print(
        f"  linear algebra: {algebra / 1e9:.1f} GFlop in {ours.outside:.2f} s; matrix products {rate / 1e9:.0f} GFlop/s"
    )
    name = "(a) BlockLanczos(k=350) to 1e-5: "
    return [
        Check(name + "times as fast as eigsh over curvlinops", theirs.seconds / ours.seconds, 20, True),
        Check(name + "… set-up inside both", (theirs.seconds + setup) / inside, 5, True),
        Check(name + "products over those of eigsh", ours.products / theirs.products, 1.1),
        Check(name + "share of time outside products", ours.outside / ours.seconds, 0.6),
        Check(
            name + "flops of its algebra a second over those of matrix products",
            algebra / ours.outside / rate,
            0.5,
            True,
        ),
    ]


def fixed_products(H: es.Hessian, exact: es.EigenDecomposition, spectrum: Tensor) -> list[Check]:
    """710 products for rank 355, as the published sketch takes."""
    heading("710 products, k = 355")
    optimal = float(spectrum[355:].norm())
    checks = []
    for solver, limit in (
        (es.BlockLanczos(k=355, max_products=710, tol=2e-6), 1.15),
        (es.SketchedEigh(outer=355, inner=710, measure_residuals=False), None),
        (es.SketchedEigh(outer=355, inner=710, measure_residuals=False, **PUBLISHED), None),
        (es.SketchedEigh(outer=355, two_pass=True, measure_residuals=False), None),
    ):
        row = timed(solver, H, 1)
        error, overlap = against(exact, row, 355, 350)
        show(row, f"{error / optimal - 1:10.1e} {overlap:8.4f} {residual(H, row):9.1e}")
        if limit is not None:
            checks.append(
                Check("(a) BlockLanczos, 710 products: error over the best of rank 355", error / optimal, limit)
            )
            checks.append(Check("(a) … overlap at k = 350", overlap, 0.999, True))
    return checks


def problem_again(H: es.Hessian) -> es.Hessian:
    """A new operator at the same point, with nothing kept."""
    H.release()
    risk = H._risk
    return es.Hessian(risk._model, risk.loss.function, list(risk.batches()))


# -- (b) ---------------------------------------------------------------------------------------------------------------


def spectra(options: Any) -> list[Check]:
    """Errors of rank 40 over the best, for spectra that fall in different ways."""
    products = 6 * PAIRS
    solvers: dict[str, tuple[es.EigenSolver, float | None]] = {
        "BlockLanczos, 6 k": (es.BlockLanczos(k=PAIRS, max_products=products, tol=1e-13), 1.01),
        "SubspaceIteration, 6 k": (es.SubspaceIteration(k=PAIRS, oversampling=PAIRS, max_products=products), 1.1),
        "two-pass sketch, 4 k": (
            es.SketchedEigh(k=PAIRS, outer=2 * PAIRS, two_pass=True, measure_residuals=False),
            1.5,
        ),
        "one-pass sketch, 4 k": (
            es.SketchedEigh(k=PAIRS, outer=2 * PAIRS, inner=4 * PAIRS, measure_residuals=False),
            None,
        ),
        "as published, 4 k": (
            es.SketchedEigh(k=PAIRS, outer=2 * PAIRS, inner=4 * PAIRS, measure_residuals=False, **PUBLISHED),
            None,
        ),
        "Nystrom, 4 k": (es.Nystrom(k=PAIRS, sketch_size=4 * PAIRS, measure_residuals=False), None),
    }
    print(f"\n(b) n = {SIZE}, k = {PAIRS}: error over the best of rank k, less one; * the report has a note")
    print(f"  {'spectrum':32}", *(f"{name:>23}" for name in solvers), f"{'skerch seigh, 6 k':>23}")
    worst = dict.fromkeys(solvers, 0.0)
    beyond = 0.0
    for name, values in synthetic().items():
        A = es.Diagonal(values.to(options.device))
        # Below that all errors are those of rounding.
        best = values.abs().sort(descending=True).values[PAIRS:].norm().clamp(min=1e-13 * float(values.norm()))
        cells = []
        for label, (solver, _) in solvers.items():
            if isinstance(solver, es.Nystrom) and not A.is_psd:
                cells.append(f"{'':>23}")
                continue
            result = quietly(solver, A)
            error = diagonal_error(values, result.eigenvalues, result.eigenvectors) / float(best)
            worst[label] = max(worst[label], error)
            cells.append(f"{error - 1:22.1e}{'*' if result.report.notes else ' '}")
            if label in ("BlockLanczos, 6 k", "SubspaceIteration, 6 k"):
                beyond = max(beyond, float(result.eigenvalues.max() - values.max()))
                beyond = max(beyond, float(values.min() - result.eigenvalues.min()))
        theirs = OTHERS["skerch seigh"](A, PAIRS)
        cells.append(f"{diagonal_error(values, theirs.values, theirs.vectors) / float(best) - 1:22.1e} ")
        print(f"  {name:32}", *cells, flush=True)
    checks = [
        Check(f"(b) {label}: worst error over the best", worst[label], limit)
        for label, (_, limit) in solvers.items()
        if limit is not None
    ]
    return [*checks, Check("(b) Ritz values beyond the range of the operator", beyond, 1e-12)]


def synthetic() -> dict[str, Tensor]:
    """The spectra of Tropp, Yurtsever, Udell & Cevher (2019), section 7.3.1, positive and with random signs."""
    i = torch.arange(1, SIZE + 1, dtype=torch.float64)
    head = 10
    found = {}
    generator = torch.Generator().manual_seed(0)
    signs = 2.0 * torch.randint(0, 2, (SIZE,), generator=generator).double() - 1
    for rate in (0.01, 0.1, 0.5):
        found[f"exponential {rate:g}"] = torch.where(i <= head, 1.0, 10 ** (-rate * (i - head)))
    for power in (0.5, 1, 2):
        found[f"polynomial {power:g}"] = torch.where(i <= head, 1.0, (i - head + 1).clamp(min=1) ** -power)
    noise = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
    wishart = torch.linalg.eigvalsh(noise @ noise.mT / SIZE).flip(0)
    for level in (1e-4, 1e-2, 1e-1):
        found[f"low rank + noise {level:g}"] = torch.where(i <= head, 1.0, 0.0) + level * wishart / SIZE**0.5
    return {
        f"{name}, {kind}": values * (signs if kind == "indefinite" else 1)
        for name, values in found.items()
        for kind in ("positive", "indefinite")
    }


def diagonal_error(diagonal: Tensor, values: Tensor, vectors: Tensor) -> float:
    approximation = (vectors * values) @ vectors.mT
    return float((torch.diag(diagonal) - approximation.cpu().double()).norm())


# -- (c) ---------------------------------------------------------------------------------------------------------------


def gauss_newton(options: Any) -> list[Check]:
    """All of a GGN of low rank from the Gram matrix of its factor, beside the top third by BlockLanczos."""
    workload = conv3c3d().to(options.device)
    inputs, targets = workload.batch
    A = es.GGN(workload.model, workload.loss, (inputs[:IMAGES], targets[:IMAGES]))
    print(f"\n(c) {A}, {IMAGES} images")
    heading("")
    A.plan(columns=32)
    lanczos = timed(es.BlockLanczos(k=RANK // 3), A, 1)
    show(lanczos, f"{'':10} {'':8} {residual(A, lanczos):9.1e}")
    gram = timed(es.GramEigh(k=RANK, measure_residuals=False), A, 1)  # they are measured below, all of them
    measured = residual(A, gram, every=1)
    show(gram, f"{'':10} {'':8} {measured:9.1e}")
    return [
        Check(f"(c) GramEigh, {RANK} pairs: largest residual over λ₁", measured, 1e-5),
        Check(f"(c) … seconds over those of BlockLanczos(k={RANK // 3})", gram.seconds / lanczos.seconds, 1),
    ]


# -- what all parts share ----------------------------------------------------------------------------------------------


def quietly(solver: es.EigenSolver, A: es.LinearOperator) -> es.EigenDecomposition:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", es.ConvergenceWarning)
        return solver.solve(A)


def heading(title: str) -> None:
    columns = f"{'products':>8} {'passes':>6} {'seconds':>8} {'outside':>8} {'MiB':>6}"
    print(f"  {title:44} {columns} {'error':>10} {'overlap':>8} {'residual':>9}")


def show(row: Found, accuracy: str) -> None:
    products = str(row.products) if row.products else ""
    outside = "" if row.outside is None else f"{row.outside:.2f}"
    print(
        f"  {row.solver:44} {products:>8} {row.passes or '':>6} {row.seconds:8.2f} {outside:>8} "
        f"{row.memory / 2**20:6.0f} {accuracy}",
        flush=True,
    )


def timed(solver: es.EigenSolver, A: es.LinearOperator, repetitions: int) -> Found:
    """One solver, several times: medians."""
    with Peak(resident_size) as size:
        results = [quietly(solver, A) for _ in range(repetitions)]
    reports = [result.report for result in results]
    return Found(
        solver=description(solver),
        products=reports[0].products - reports[0].check_products,
        passes=reports[0].passes,
        seconds=statistics.median(report.seconds for report in reports),
        outside=statistics.median(report.seconds_outside for report in reports),
        memory=size.growth,
        values=results[0].eigenvalues,
        vectors=results[0].eigenvectors,
    )


def description(solver: es.EigenSolver) -> str:
    """The solver with what is not its default."""
    defaults = type(solver)(k=solver.k)
    changed = {
        name: value
        for name, value in attrs.asdict(solver).items()
        if value != getattr(defaults, name) and name not in ("k", "measure_residuals")
    }
    return f"{type(solver).__name__}({', '.join(f'{name}={value}' for name, value in changed.items())})"


def against(exact: es.EigenDecomposition, found: Found, rank: int, k: int) -> tuple[float, float]:
    """‖A - Â‖_F for Â of that rank, in the exact eigenbasis, and the overlap of the first k with the exact ones."""
    values, spectrum = found.values[:rank].double(), exact.eigenvalues.double()
    coordinates = (exact.eigenvectors.mT @ found.vectors[:, :rank]).double()
    quotients = spectrum @ coordinates.square()
    squared = float(spectrum.square().sum() - 2 * (values * quotients).sum() + values.square().sum())
    return max(squared, 0.0) ** 0.5, float(coordinates[:k, :k].square().sum()) / k


def residual(A: es.LinearOperator, found: Found, every: int | None = None) -> float:
    """The largest ‖A v - λ v‖ over the largest |λ|, of about fifty vectors, or of one in ``every``; the last is one."""
    chosen = torch.arange(len(found.values) - 1, -1, -(every or max(1, len(found.values) // 50)))
    largest = 0.0
    for columns in chosen.split(50):
        V, values = found.vectors[:, columns], found.values[columns]
        largest = max(largest, float(((A @ V) - V * values).norm(dim=0).max()))
    return largest / float(found.values.abs().max())


def matrix_rate(n: int, device: torch.device) -> float:
    """Flops a second of the products that a Krylov space needs: Bᵀ X and B C of a basis of 700 and a block of 17."""
    B, X, C = (torch.randn(*shape, device=device) for shape in ((700, n), (17, n), (17, 700)))
    spent = []
    for _ in range(9):
        began = time.perf_counter()
        _ = B @ X.mT, C @ B
        spent.append(time.perf_counter() - began)
    return 4 * B.numel() * 17 / statistics.median(spent)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module=r"(?!eigenspan)")
    main()
