"""Subspace iteration: a block of fixed width, multiplied and orthonormalised again and again."""

from __future__ import annotations

import functools
import math

import attrs
import torch
from torch import Tensor

from ..linops import LinearOperator
from ..linops.sharding import summed
from .basis import Basis, narrowed, random_directions
from .combination import Combination
from .krylov import DOUBT
from .parameters import int_or_none, positive_integer, tolerance, tolerance_for
from .rayleigh_ritz import generalised_eigenpairs, orthonormalise_in_place, projected, residual_norms
from .report import Status
from .solver import EigenPairs, EigenSolver, Which
from .storage import DEVICE, Storage, as_storage
from .tall import column_norms
from .watched import Watched
from .workload import Workload

_PASSES = 100  # at most, by default
_STORED_BLOCK = 64  # columns of Q in memory, by default, where it is stored elsewhere
_CLOSE = 0.01  # vectors to orthonormal ones: hundreds of them are well-conditioned together
_PASSES_A_DIGIT = 7  # of tol, as a rule, by benchmarks/plan.py --rules


@attrs.frozen(kw_only=True)
class SubspaceIteration(EigenSolver):
    """The k leading eigenpairs by randomised subspace iteration, Q ← orth(A Q), and Rayleigh-Ritz on the last Q.

    Q, (n, k + oversampling), begins random and is orthonormalised after every product. All is taken from the last
    product A Q: the pairs (θ, Q s) of the eigenproblem Qᵀ A Q s = θ s, none of which exceeds the range of A, and their
    residuals. The part of an eigenvector of λ that Q lacks falls with every product by |λ' / λ|, λ' the first
    eigenvalue that Q cannot hold. `BlockLanczos` needs fewer products; this needs few passes over the data, and four
    blocks of memory however many it makes.

    The iteration finds the largest |λ|. For one end of the spectrum, LA or SA, it is that of A - c I, c the farthest
    Ritz value at the other end in any block so far: that end is mapped to about zero. While it is not, it shows in the
    next blocks, and moves c.

    With ``passes`` the cost is fixed, and nothing is tested. Else the iteration goes on until the pairs meet ``tol``. A
    ``start`` may lack leading pairs: it makes up k columns at most, beside random ones, and pairs count as converged
    only after so many products that a pair ahead of them would have shown, but for about one time in a hundred: the
    closer the next pair behind, the more. Of pairs that lead by less than about √n tol max|θ| residuals do not tell.

    Args:
        k: how many pairs.
        oversampling: further columns of Q; by default max(10, k / 4).
        passes: products with Q in all, for a fixed cost.
        tol: the pairs have converged when ‖A v - θ v‖ <= tol max|θ|, over all Ritz values; by default 1e-5 in float32,
            1e-9 in float64. The error of a θ apart from other eigenvalues is of the order of tol².
        max_products: where to stop at the latest; by default 100 products with Q.
        block_size: columns multiplied at a time; by default all of Q, and 64 with a ``storage``.
        storage: where Q and A Q are kept, a `Storage` or the name of its kind, in the dtype of A; by default in its
            memory. If it is given eigenvectors are formed only when they are asked for.
        which, seed, check_symmetry: see `EigenSolver`.

    Of a ``start`` of more columns than k, random combinations are taken.

    Raises:
        ValueError: besides those of `EigenSolver`, max_products below the columns of Q, ``passes`` beside ``tol`` or
            ``max_products``, a tol below ten roundings of the dtype, or a storage of a narrower dtype.
        OSError: a directory that cannot be written, or a disk without room for Q and A Q.

    Source: Halko, Martinsson & Tropp (2011), algorithms 4.4 and 5.3; Saad, Numerical Methods for Large Eigenvalue
    Problems, chapter 5.

    Cost: k + oversampling = p products and about 10 n p² flops in a pass; 4 n p numbers, 2 n p with a storage.
    """

    oversampling: int | None = attrs.field(default=None, converter=int_or_none, validator=positive_integer)
    passes: int | None = attrs.field(default=None, converter=int_or_none, validator=positive_integer)
    tol: float | None = attrs.field(default=None, validator=tolerance)
    max_products: int | None = attrs.field(default=None, converter=int_or_none, validator=positive_integer)
    block_size: int | None = attrs.field(default=None, converter=int_or_none, validator=positive_integer)
    storage: Storage | None = attrs.field(default=None, converter=as_storage)

    uses_start = True

    def __attrs_post_init__(self) -> None:
        if self.passes is not None and (self.tol, self.max_products) != (None, None):
            raise ValueError("passes fixes the cost and tests nothing: give it, or else tol and max_products")

    def _solve(self, A: Watched, start: Tensor | None) -> EigenPairs:
        passes, width = self._passes(A), self._width(A)
        tol = tolerance_for(A, self.tol) if self.passes is None else None
        block = _Block(A, self.which, self.k, width, self.seed, start, self._stored(A), self._columns(A))
        status = Status.SKETCHED if tol is None else Status.OUT_OF_PRODUCTS
        for _ in range(passes):
            block.multiply()
            if tol is not None and block.has_converged(tol):
                status = Status.CONVERGED
                break
        if width == A.shape[0]:
            status = Status.COMPLETE
        values, norms = block.values[: self.k], block.residual_norms[: self.k]
        return EigenPairs(values, self._vectors(block.Q), status, norms)

    def _vectors(self, Q: Basis) -> Tensor | Combination:
        if self.storage is None:
            return Q.columns(0, self.k)
        return Combination(Q, torch.eye(Q.size, self.k, dtype=torch.float64), _STORED_BLOCK)

    def _columns(self, A: LinearOperator) -> int:
        """Columns multiplied at a time."""
        return self.block_size or (self._width(A) if self.storage is None else _STORED_BLOCK)

    def _stored(self, A: LinearOperator) -> Storage:
        """Where Q and A Q are kept, once that is known to have room for them."""
        storage = self.storage or DEVICE
        if storage.is_rounding(A.dtype):
            raise ValueError(f"Q and A Q are not rounded: leave out the dtype of {storage} for {A}")
        return storage.prepared(A, A.shape[0], 2 * self._width(A))  # vectors are formed once A Q is gone

    def _require_suitable(self, A: LinearOperator) -> None:
        super()._require_suitable(A)
        self._stored(A)

    def _width(self, A: LinearOperator) -> int:
        oversampling = max(10, self.k // 4) if self.oversampling is None else self.oversampling
        return min(A.shape[0], self.k + oversampling)

    def _passes(self, A: LinearOperator) -> int:
        """How many at most; one tells all if Q is the whole space."""
        width = self._width(A)
        if self.max_products is not None and self.max_products < width:
            raise ValueError(
                f"a product with all of Q takes k + oversampling = {width} products, got "
                f"max_products={self.max_products}"
            )
        if width == A.shape[0]:
            return 1
        if self.passes is not None:
            return self.passes
        return _PASSES if self.max_products is None else self.max_products // width

    def _workload(self, A: LinearOperator) -> Workload:
        width, passes = self._width(A), self._passes(A)
        if self._total(A) is None:
            passes = min(passes, math.ceil(-_PASSES_A_DIGIT * math.log10(tolerance_for(A, self.tol))))
        return Workload(
            products=passes * width + 2 * self.check_symmetry,
            rule=f"{_PASSES_A_DIGIT} passes a digit of tol",
            width=min(width, self._columns(A)),
            passes=passes * -(-width // self._columns(A)) + self.check_symmetry,
            basis=0 if self.storage is None else 2 * width,
            working=4 * width if self.storage is None else 3 * self._columns(A),
            row_flops=10 * width**2 * passes,
            core=width,
            core_flops=9 * width**3 * passes,
        )

    def _total(self, A: LinearOperator) -> int | None:
        most = self._most(A)  # sizes that do not fit are refused before any product
        return most if self.passes is not None or self._width(A) == A.shape[0] else None

    def _most(self, A: LinearOperator) -> int:
        return self._passes(A) * self._width(A) + 2 * self.check_symmetry


class _Block:
    """Q, and what its last product tells: the Ritz pairs of all its columns, in order.

    Attributes:
        Q: before the first product a start with random columns; then the Ritz vectors, (n, p).
        values: θ, (p,).
        residual_norms: ‖A v - θ v‖, (p,).
    """

    values: Tensor
    residual_norms: Tensor

    def __init__(
        self,
        A: Watched,
        which: Which,
        k: int,
        width: int,
        seed: int,
        start: Tensor | None,
        storage: Storage,
        block_size: int,
    ) -> None:
        self.A, self.which, self.k, self.width, self.seed, self.block_size = A, which, k, width, seed, block_size
        self._started, self._multiplied = start is not None, False
        self._drawn = 0  # random columns so far
        self._scale = 0.0  # the largest |θ| so far
        self._farthest = math.inf  # the least key of any θ so far
        self._before: Tensor | None = None  # keys of the wanted pairs when all other columns were drawn anew
        self._kept = width  # columns that go on in the next step
        self._evidence = torch.zeros(1, dtype=torch.float64)  # how much a missing pair would have grown since
        self.Q, self._images = (Basis(A.shape[0], A.dtype, A.device, storage, A.row_mesh, most=width) for _ in range(2))
        if start is not None:
            self.Q.append(narrowed(start, k, seed, "iteration mixing"))
        self._drawn = width - self.Q.size
        if self._drawn > 0:
            self.Q.append(random_directions(self.Q, 0, self._drawn, seed, "iteration"))
        self._gram = torch.eye(width, dtype=torch.float64)
        self._has_taken = False  # vectors of another run in the last product

    def multiply(self) -> None:
        """One step, but for the first, and A times the new Q."""
        if self._multiplied:
            self._step()
        Q, images = self.Q, self._images
        images.size, self._has_taken = 0, False
        for place, X in Q.column_blocks(self.block_size):
            images.append(self.A.multiply(X, functools.partial(self._takes, place.start, X)))
        if self._has_taken:
            self._gram = Q.gram()
        H = projected(images.column_blocks(self.block_size), Q.coefficients, self.width)
        values, S = generalised_eigenpairs(H, self._gram)
        order = self.which.order(values)
        self.values = values[order]
        Q.replace(S[:, order])
        images.replace(S[:, order])
        self._scale = max(self._scale, float(self.values.abs().max()))
        self._farthest = min(self._farthest, float(self.which.key(self.values)[-1]))
        pairs = ((AV, V) for (_, AV), (_, V) in zip(images.row_blocks(), Q.row_blocks(), strict=True))
        self.residual_norms = residual_norms(pairs, self.values.to(Q.device, Q.dtype), Q.mesh)
        self._multiplied = True

    def _takes(self, start: int, X: Tensor, vectors: Tensor) -> bool:
        """Put vectors in the place of X, columns of Q from ``start`` on, if these are well-conditioned with the others.

        The iteration goes on from whatever they span.
        """
        if float(column_norms(vectors - X).max()) > _CLOSE:
            return False
        self.Q.put(start, vectors)
        self._has_taken = True
        return True

    def has_converged(self, tol: float) -> bool:
        """Whether the k first pairs meet ``tol`` and are, as far as random columns tell, all that lead."""
        small = self.residual_norms <= tol * self._scale
        self.A.note(f"{int(small[: self.k].sum())} of {self.k} pairs converged")
        if not bool(small[: self.k].all()):
            return False
        if not self._started:
            return True
        keys = self.which.key(self.values)
        if self._before is None or bool(((keys[: self.k] - self._before).abs() > 2 * tol * self._scale).any()):
            # The pairs of a start, or ones that were missing from it: how many more are, new random columns show.
            self._before, self._kept = keys[: self.k], self.k
            return False
        if bool(small.all()):
            return True
        # The part of v that Q lacks, at first about √n times that in it, falls by |λ - c| over what the last column of
        # Q grows by. A pair that is missing has a λ at least that of the last one wanted, and shows by a Ritz value
        # above the next when that part is below the root of their distance. Random columns fail independently.
        gap = max(float(keys[self.k - 1] - keys[self.k]), tol * self._scale)
        doubt = math.log(DOUBT) / (self.width - self.k)
        return float(self._evidence) >= math.log(self.A.shape[0] * self._scale / gap) / 2 - doubt

    def _step(self) -> None:
        """The next Q, orth((A - c I) Q)."""
        # Of the Ritz vectors, which span the same: their products are the more accurate, each of its own length.
        shift, unit = self._shift(), self._scale or 1.0
        square = torch.zeros(1, dtype=torch.float64, device=self.A.device)  # of the last column's length
        for (rows, images), (_, Q) in zip(self._images.row_blocks(), self.Q.row_blocks(), strict=True):
            moved = (images - shift * Q) / unit
            square += moved[:, -1].double().square().sum()
            self.Q.put_rows(rows, moved[:, : self._kept])
        if self._kept < self.width:
            self._evidence.zero_()
        else:
            grown = unit * summed(square.cpu(), self.A.row_mesh).sqrt()
            self._evidence += ((self.values[self.k - 1] - shift).abs() / grown).log()
        self.Q.size = self._kept
        self._gram, self._drawn = orthonormalise_in_place(self.Q, self.width, self.seed, "iteration", self._drawn)
        self._kept = self.width

    def _shift(self) -> float:
        """What the step maps to zero: for LA or SA the other end of the spectrum."""
        if self.which is Which.LM:
            return 0.0
        return self._farthest if self.which is Which.LA else -self._farthest
