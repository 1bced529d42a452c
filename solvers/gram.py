"""Eigenpairs of a product BᵀB with few rows, from the small matrix BBᵀ."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from ..linops import CurvatureOperator, LinearOperator
from ..linops.memory import allowance
from .basis import Basis
from .parameters import as_int, int_or_none, positive_integer
from .report import Status
from .sketches import Gaussian
from .solver import EigenPairs, EigenSolver, Which
from .streams import stream
from .tall import column_major, column_norms, combine, gram, in_blocks, orthonormalise, orthonormality_defects
from .watched import Watched
from .workload import Workload

_WIDTH = 128  # columns multiplied at a time


@attrs.frozen(kw_only=True)
class GramEigh(EigenSolver):
    """The k leading eigenpairs of A = BᵀB, (n, n), from a diagonalisation of the (m, m) BBᵀ: exact to rounding.

    For operators that are made as such a product, see `LinearOperator.factor`: a GGN has as many rows as there are
    outputs over all data, a Fisher matrix one for each sample or draw. With BBᵀ = U Λ Uᵀ, the columns of Bᵀ U Λ^(-1/2)
    are eigenvectors of A, and Λ holds all its eigenvalues that are not zero. They are orthonormal but for rounding
    errors, which grow as Λ falls; where these show, they are made orthonormal and the pairs those of Rayleigh-Ritz in
    their span. Eigenvalues whose roots are below ten roundings of the largest one's count as zero; their vectors come
    from random ones, without the part in the span of the rows of B.

    One product of A with a random combination of all vectors found verifies them, and with them the factor.

    Args:
        k: how many pairs, up to n: more than m if zeros are wanted too.
        limit: the most rows that B may have.
        memory_budget: bytes that rows of B may take, see `LinearOperator.row_gram`.
        measure_residuals: whether k further products measure residual norms; else they are NaN, and a note has their
            root mean square, as estimated from the product that verifies them.
        which, seed, check_symmetry: see `EigenSolver`.

    Raises:
        TypeError: an operator of which no factor is known.
        ValueError: besides those of `EigenSolver`, a factor of more rows than ``limit``, or with entries that are not
            finite; a memory budget too small.
        RuntimeError: pairs of BᵀB that are none of A.

    Source: Dangel, Tatzel & Hennig (2022), ViViT: curvature access through the generalized Gauss-Newton's low-rank
    structure.

    Cost: one product to verify, k to measure residual norms, and of B what `LinearOperator.row_gram` takes and k
    products with Bᵀ; for pairs of eigenvalue zero, and where vectors are made orthonormal, up to four products with B
    and three with Bᵀ for each; 9 m³ flops. Memory: the budget, 4 m² numbers, and 2 n k, or 4 n k where vectors are
    made orthonormal.
    """

    limit: int = attrs.field(default=10_000, converter=as_int, validator=positive_integer)
    memory_budget: int | None = attrs.field(default=None, converter=int_or_none, validator=positive_integer)
    measure_residuals: bool = True

    takes_spread_rows = False

    @property
    def _measures_residuals(self) -> bool:
        return self.measure_residuals

    def _require_suitable(self, A: LinearOperator) -> None:
        super()._require_suitable(A)
        self._factor(A)
        if (
            isinstance(A, CurvatureOperator) and not self.measure_residuals
        ):  # a trial would take longer than the products to come
            A.plan(columns=2, products=2)

    def _factor(self, A: LinearOperator) -> LinearOperator:
        B = A.factor()
        m = B.shape[0]
        if m > self.limit:
            raise ValueError(
                f"{B}, the factor of {A}, has m={m} rows, above limit={self.limit}: raise the limit if m² numbers "
                f"({8 * m * m / 2**30:.1f} GiB, a few times) and 9 m³ flops can be had, or use BlockLanczos"
            )
        return B

    def _solve(self, A: Watched, start: Tensor | None) -> EigenPairs:
        B = A.part("factor", self._factor(A.A))
        A.note(f"Gram matrix of {B.shape[0]} rows")
        space = _RowSpace(B, B.row_gram(self.memory_budget))
        n, rank = A.shape[0], space.rank
        leading = 0 if self.which is Which.SA else min(self.k, rank)
        values, vectors = space.pairs(leading, self.seed)
        missing = self.k - len(values)
        if missing > 0:
            # The smallest eigenvalues are those of A outside the span of all that lead; zeros, as a rule.
            without = min(rank, n - self.k) if self.which is Which.SA else rank
            others, more = space.outside(without, vectors, missing, self.seed)
            values = torch.cat([values, others])
            vectors = torch.cat([vectors.mT, more.mT]).mT
        typical = self._verified(A, space, values, vectors)
        notes = (
            f"a Gram matrix of {B.shape[0]} rows, of rank {rank}",
            f"{space.B.products} products with the factor and its transpose, which are not counted above",
            f"residual norms of {typical:.1e} in root mean square, by one product",
        )
        return EigenPairs(values, vectors, Status.COMPLETE, notes=notes)

    def _verified(self, A: Watched, space: _RowSpace, values: Tensor, vectors: Tensor) -> float:
        """The root mean square of ‖A v - λ v‖, as estimated by one product with a random combination of the vectors."""
        c = torch.from_numpy(stream(self.seed, "combination").standard_normal((len(values), 1)))
        image, expected = A._matmat(combine(vectors, c)), combine(vectors, values[:, None] * c)
        norm = float(column_norms(image - expected)[0] / c.norm())
        rounding = torch.finfo(A.dtype).eps
        if not norm <= rounding**0.5 * space.scale:
            raise RuntimeError(
                f"the eigenpairs of BᵀB are none of {A.A}, with B = {space.B.A} its factor: a product with a random "
                f"combination of them is off by {norm:.1e}, of {space.scale:.1e}; the factor or its row_gram() is wrong"
            )
        return norm

    def _workload(self, A: LinearOperator) -> Workload:
        (m, n), residuals = A.factor().shape, self.measure_residuals
        rows = min(m, allowance(self.memory_budget, A.device) // max(1, n * A.dtype.itemsize))
        return Workload(
            width=self.k if residuals else 1,
            passes=1 + self.check_symmetry + residuals,
            # Rows and, once they are gone, vectors that are made orthonormal.
            working=max(rows, self.k),
            row_flops=m**2 + 2 * m * self.k,
            core=m,
            core_flops=9 * m**3,
            algebra_width=_WIDTH,
            factor_products=m + min(self.k, m),
        )

    def _total(self, A: LinearOperator) -> int | None:
        return 1 + 2 * self.check_symmetry + self.k * self.measure_residuals


class _RowSpace:
    """The span of the rows of B, by the eigenpairs (λ, u) of BBᵀ, the largest first.

    Attributes:
        B: the factor, counted.
        scale: the largest λ.
        rank: how many are not zero, to rounding.
    """

    def __init__(self, B: Watched, products: Tensor) -> None:
        if not bool(products.isfinite().all()):
            raise ValueError(
                f"{B.A} has rows with entries that are NaN or infinite; look at the parameters and the data"
            )
        self.B = B
        values, vectors = torch.linalg.eigh(products)
        self._values, self._vectors = values.flip(0).cpu(), vectors.flip(1)
        m, n = B.shape
        self.scale = max(0.0, *self._values[:1].tolist())
        # B's entries are rounded in its dtype, their products and the diagonalisation in float64: errors of about √m
        # roundings in norm.
        least = max((10 * torch.finfo(B.dtype).eps) ** 2, 10 * m**0.5 * torch.finfo(torch.float64).eps)
        self.rank = min(n, int((self._values > least * self.scale).sum()))

    def pairs(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Eigenpairs of BᵀB with the largest λ, ``count`` of them or the numerical rank of their vectors."""
        values, weights = self._values[:count], self._vectors[:, :count]
        weights = weights / values.sqrt().to(weights.device)
        vectors = in_blocks(self.B._rmatmat, self.B.shape[1], weights.to(self.B.dtype), _WIDTH)
        row_of_rounding = 10 * torch.finfo(vectors.dtype).eps * max(count, 1) ** 0.5
        if bool((orthonormality_defects(vectors, seed) <= row_of_rounding).all()):
            return values, vectors
        return self._rayleigh_ritz(orthonormalise(vectors).Q)

    def outside(self, without: int, vectors: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Rayleigh-Ritz pairs of BᵀB, ``count`` of them, orthogonal to the ``without`` largest and to ``vectors``."""
        n, dtype, device = self.B.shape[1], self.B.dtype, self.B.device
        basis = Basis(n, dtype, device)
        basis.append(vectors)
        Q = Gaussian(n, count, seed=seed, purpose="completion", dtype=dtype, device=device).columns(0, count)
        for _ in range(3):  # a small λ has an error of up to a tenth, and as much of its vector is left each time
            Q = orthonormalise(self._without(Q, without), basis).Q
        return self._rayleigh_ritz(Q)

    def _without(self, X: Tensor, count: int) -> Tensor:
        """X less its projection Bᵀ U Λ⁻¹ Uᵀ B X onto the eigenvectors of the ``count`` largest λ."""
        U, values = self._vectors[:, :count], self._values[:count, None].to(X.device)

        def without(block: Tensor) -> Tensor:
            coefficients = U @ ((U.mT @ self.B._matmat(block).double()) / values)
            return block - self.B._rmatmat(coefficients.to(X.dtype))

        return in_blocks(without, len(X), X, _WIDTH)

    def _rayleigh_ritz(self, Q: Tensor) -> tuple[Tensor, Tensor]:
        images = in_blocks(self.B._matmat, self.B.shape[0], Q, _WIDTH)
        values, vectors = torch.linalg.eigh(gram(images))
        return values.flip(0), combine(column_major(Q), vectors.flip(1))
