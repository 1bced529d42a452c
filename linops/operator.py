"""The abstract linear operator and its closed algebra: adjoint, multiples, sums, products, congruences.

One file, because the classes are mutually recursive: every operation on an operator gives one of them.
"""

from __future__ import annotations

import abc
import functools
import math
import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, overload

import torch
from torch import Tensor

from .sharding import whole
from .structure import Structure

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator as ScipyLinearOperator
    from torch.distributed.device_mesh import DeviceMesh

    from .subspace import Subspace

DENSE_COLUMNS = 512
"""Columns of the identity that are multiplied at a time, so that it is never formed whole."""


class LinearOperator(abc.ABC):
    """A real m x n matrix known by its products with blocks of vectors.

    A subclass calls ``super().__init__`` and defines ``_matmat``, which maps an (n, k) block to an (m, k) block for any
    k >= 0 and any strides and never writes into its argument; if it is not symmetric and has a transpose it also
    defines ``_rmatmat``, (m, k) to (n, k). All else is inherited: products with vectors and blocks from either side
    (``A @ x``, ``A @ X``, ``X @ A``), the algebra (``A @ B``, ``A + B``, ``A - B``, ``c * A``, ``A / c``, ``-A``,
    ``A.T``), ``to_dense``, ``to_scipy`` and the operators that a subspace induces.

    Sizes, dtypes and devices are checked where a user's tensor enters, in ``@``, and nowhere else; nothing is promoted
    or moved in silence. Products run without gradient tracking.

    Args:
        shape: (m, n).
        dtype: a real floating-point dtype; that of every block the operator takes and gives.
        device: where those blocks live.
        structure: what is known of the matrix.

    Raises:
        ValueError: a shape that is not two non-negative integers, or symmetry claimed for a matrix that is not square.
        TypeError: a dtype that is not real floating point.
    """

    row_mesh: DeviceMesh | None = None  # the ranks that rows of its blocks are spread over, see `RowSharded`

    # NumPy must not broadcast an operator over an array's entries: it defers to __rmatmul__ and __rmul__.
    __array_ufunc__ = None

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device | str,
        structure: Structure = Structure.NONE,
    ) -> None:
        if len(shape) != 2 or not all(isinstance(size, numbers.Integral) and size >= 0 for size in shape):
            raise ValueError(f"{type(self).__name__}: a shape is two non-negative integers, got {tuple(shape)}")
        rows, columns = (int(size) for size in shape)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(f"{type(self).__name__}: operators have a real floating-point torch dtype, got {dtype!r}")
        if Structure.SYMMETRIC in structure and rows != columns:
            raise ValueError(f"{type(self).__name__}: declared {structure}, but {rows} x {columns} is not square")
        self.shape = (rows, columns)
        self.dtype = dtype
        # An empty tensor resolves "cuda" to "cuda:0", so that devices compare equal.
        self.device = torch.empty(0, device=device).device
        self.structure = structure

    @abc.abstractmethod
    def _matmat(self, X: Tensor) -> Tensor:
        """The product with an (n, k) block, an (m, k) block that shares no memory with ``X``."""

    def _rmatmat(self, X: Tensor) -> Tensor:
        """The product of the transpose with an (m, k) block, an (n, k) block."""
        if self.is_symmetric:
            return self._matmat(X)
        raise NotImplementedError(
            f"{self} has no transposed product: define {type(self).__name__}._rmatmat, "
            "or declare the operator symmetric if it is"
        )

    @property
    def is_symmetric(self) -> bool:
        """Whether A = Aᵀ is known."""
        return Structure.SYMMETRIC in self.structure

    @property
    def is_psd(self) -> bool:
        """Whether A is known to be symmetric positive semidefinite."""
        return Structure.PSD in self.structure

    @property
    def T(self) -> LinearOperator:  # noqa: N802
        """The transpose, (n, m); the operator itself if it is symmetric."""
        return self if self.is_symmetric else Adjoint(self)

    @property
    def H(self) -> LinearOperator:  # noqa: N802
        """The conjugate transpose, which for a real operator is the transpose."""
        return self.T

    # -- products -----------------------------------------------------------------------------------------------------

    @overload
    def __matmul__(self, other: LinearOperator) -> LinearOperator: ...
    @overload
    def __matmul__(self, other: Tensor) -> Tensor: ...
    def __matmul__(self, other: LinearOperator | Tensor) -> LinearOperator | Tensor:
        if isinstance(other, LinearOperator):
            return Product(self, other)
        return self._checked(self._matmat, other, self.shape, "{} @ X")

    def __rmatmul__(self, other: Tensor) -> Tensor:
        rows, columns = self.shape
        transposed = other.mT if isinstance(other, Tensor) and other.ndim == 2 else other
        product = self._checked(self._rmatmat, transposed, (columns, rows), "X @ {}")
        return product.mT if product.ndim == 2 else product

    @torch.no_grad()
    def _checked(self, product: Callable[[Tensor], Tensor], X: Tensor, shape: tuple[int, int], what: str) -> Tensor:
        """The one gate: what a user hands in is checked here, and what a subclass gives back."""
        m, n = shape
        if not isinstance(X, Tensor):
            raise TypeError(
                f"{what.format(self)} takes a torch tensor or an operator, got {type(X).__name__}; "
                "for NumPy and SciPy use A.to_scipy(), or torch.as_tensor on the array"
            )
        if X.ndim not in (1, 2) or X.shape[0] != n:
            given = X.ndim if X.ndim not in (1, 2) else X.shape[0]
            unit = "axes" if X.ndim not in (1, 2) else "entries along the shared axis"
            raise ValueError(
                f"{what.format(self)}: X must be a vector of {n} entries or a block of such vectors, got {given} {unit}"
            )
        if X.dtype != self.dtype or X.device != self.device:
            raise TypeError(
                f"{what.format(self)}: X is {X.dtype} on {X.device}, the operator {self.dtype} on {self.device}; "
                f"convert it with X.to({str(self.device)!r}, {self.dtype})"
            )
        block = (X[:, None] if X.ndim == 1 else X).detach()
        if torch.is_inference_mode_enabled() or block.is_inference():
            result = product_outside_inference_mode(product, block)
        else:
            result = product(block)
        self._require_product(result, block, m)
        return result[:, 0] if X.ndim == 1 else result

    def _require_product(self, result: Any, block: Tensor, rows: int) -> None:
        """Refuse what is no product of a block in this operator's dtype, on its device."""
        if not isinstance(result, Tensor):
            raise RuntimeError(f"{type(self).__name__} broke its contract: a product gave {type(result).__name__}")
        if result.shape != (rows, block.shape[1]) or result.dtype != self.dtype or result.device != self.device:
            raise RuntimeError(
                f"{type(self).__name__} broke its contract: a block of shape {tuple(block.shape)} gave "
                f"{tuple(result.shape)} {result.dtype} on {result.device}, "
                f"expected {(rows, block.shape[1])} {self.dtype} on {self.device}"
            )

    # -- algebra ------------------------------------------------------------------------------------------------------

    def __add__(self, other: LinearOperator) -> LinearOperator:
        return Sum(self, other) if isinstance(other, LinearOperator) else NotImplemented

    def __sub__(self, other: LinearOperator) -> LinearOperator:
        return Sum(self, -other) if isinstance(other, LinearOperator) else NotImplemented

    def __neg__(self) -> LinearOperator:
        return Scaled(self, -1.0)

    def __mul__(self, factor: float | Tensor) -> LinearOperator:
        scalar = _as_scalar(factor)
        return NotImplemented if scalar is None else Scaled(self, scalar)

    __rmul__ = __mul__

    def __truediv__(self, divisor: float | Tensor) -> LinearOperator:
        scalar = _as_scalar(divisor)
        if scalar is None:
            return NotImplemented
        if scalar == 0:
            raise ZeroDivisionError(f"{self} / 0")
        return self * (1.0 / scalar)

    def congruence(self, B: LinearOperator) -> LinearOperator:
        """Bᵀ A B, symmetric and definite whenever A is.

        Args:
            B: (n, k).

        Raises:
            ValueError: A not square, or a B of another height.
            TypeError: a B of another dtype or device.

        Cost: none; see `Congruence`.
        """
        return Congruence(self, B)

    # -- operators that a subspace induces ----------------------------------------------------------------------------

    def restricted(self, subspace: Subspace) -> LinearOperator:
        """Bᵀ A B for the basis B of ``subspace``: the (k, k) compression of A to it, in its coordinates.

        Cost: none; a product takes one of A, of B and of Bᵀ.
        """
        return Congruence(self, subspace.basis)

    def projected(self, subspace: Subspace) -> LinearOperator:
        """P A P for the orthogonal projector P onto ``subspace``, (n, n).

        Cost: none; a product takes one of A, and two of B and of Bᵀ.
        """
        return Congruence(self, subspace.projector)

    def deflated(self, subspace: Subspace) -> LinearOperator:
        """(I - P) A (I - P) for the orthogonal projector P onto ``subspace``, (n, n).

        Cost: none; a product takes one of A, and two of B and of Bᵀ.
        """
        return Congruence(self, subspace.complement_projector)

    def masked(self, mask: Tensor | Subspace) -> LinearOperator:
        """A with the rows and columns outside ``mask``, boolean (n,) or a MaskSubspace, set to zero; (n, n).

        Cost: none; a product takes one of A, and sets rows to zero before and after.
        """
        if isinstance(mask, Tensor):
            from .mask import MaskSubspace

            mask = MaskSubspace.from_mask(mask, dtype=self.dtype)
        return self.projected(mask)

    # -- factors ------------------------------------------------------------------------------------------------------

    def factor(self) -> LinearOperator:
        """A B, (m, n), with A = Bᵀ B, of an operator that is made as such a product; it need not be triangular.

        Raises:
            TypeError: none is known.

        Cost: none; for curvature operators one forward pass over the data, to count rows.
        """
        raise TypeError(
            f"no factor B with A = Bᵀ B is known of {self}; there is one of a GGN of a convex loss, an EmpiricalFisher "
            "or MonteCarloFisher, of B.T @ B, and of congruences, sums and non-negative multiples of such"
        )

    def row_gram(self, memory_budget: int | None = None) -> Tensor:
        """A Aᵀ, the inner products of the rows: a new (m, m) tensor in float64, in which they are summed.

        Args:
            memory_budget: bytes that rows may take; by default a quarter of what is free.

        Raises:
            ValueError: a budget below one; one that does not hold two rows.

        Cost: m products of Aᵀ and m² n flops; where the budget does not hold m n numbers but every p-th part of
        them, about p m products.
        """
        from .row_gram import row_gram

        return row_gram(self, memory_budget)

    # -- identity -----------------------------------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """32 hexadecimal digits that tell this matrix from others, the same in every process, for work that goes on.

        That of a curvature operator is of the bytes of parameters, their names, buffers and data, of what the model and
        the loss compute, of dtype and class. It depends neither on the device nor on engines or micro-batches, nor on
        how samples are ordered and cut into batches (rows of a Jacobian or a factor have an order). Methods, attributes
        and globals that functions of one's own read by name count, but for globals of installed packages. Sums,
        products, blocks and the like are told by their parts, `Dense` and `Diagonal` by their entries. Of other
        operators three products with fixed vectors are taken to two or three digits: another machine may round one of
        these the other way, in float32 once in some thousand times.

        Ranks of a job that share out data, columns or rows have the fingerprint that one process has; all must call it.

        Cost: one pass over the data, without the model; for others three products.
        """
        from .fingerprint import fingerprint

        return fingerprint(self)

    def _content(self) -> Any:
        """What the matrix is a function of, as `fingerprint` reads it; None if only products are known."""
        return None

    # -- conversions --------------------------------------------------------------------------------------------------

    def to_dense(self) -> Tensor:
        """The matrix itself, a new (m, n) tensor. Cost: n products and m n numbers."""
        m, n = self.shape
        dense = torch.empty(n, m, dtype=self.dtype, device=self.device).mT
        for start in range(0, n, DENSE_COLUMNS):
            stop = min(start + DENSE_COLUMNS, n)
            unit = torch.zeros(stop - start, n, dtype=self.dtype, device=self.device)
            unit[:, start:stop].fill_diagonal_(1)
            dense[:, start:stop] = whole(self @ unit.mT)
        return dense

    def to_scipy(self) -> ScipyLinearOperator:
        """This operator for SciPy: NumPy blocks in and out, on the CPU. See `interop.to_scipy`.

        Cost: none; products take two copies of the block.
        """
        from .interop import to_scipy

        return to_scipy(self)

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(f"{self} is not an array: use A.to_scipy() for SciPy, A.to_dense().numpy() for the entries")

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        known = f" {self.structure}" if self.structure else ""
        return f"<{type(self).__name__} {self.shape[0]}x{self.shape[1]} {dtype} {self.device}{known}>"


def product_outside_inference_mode(product: Callable[[Tensor], Tensor], block: Tensor) -> Tensor:
    """Autograd, by which some products are computed, sees neither what is done in that mode nor its tensors."""
    with torch.inference_mode(False), torch.no_grad():
        return product(block.clone())


def _as_scalar(factor: float | Tensor) -> float | None:
    """``factor`` as a finite float; None if it is no real number."""
    if isinstance(factor, Tensor):
        if factor.ndim != 0 or factor.is_complex():
            return None
        factor = factor.item()
    if not isinstance(factor, numbers.Real):
        return None
    scalar = float(factor)
    if not math.isfinite(scalar):
        raise ValueError(f"an operator is multiplied by finite numbers, got {scalar}")
    return scalar


def _require_alike(A: LinearOperator, B: LinearOperator, operation: str) -> None:
    if A.dtype != B.dtype or A.device != B.device:
        raise TypeError(f"{operation}: {A} and {B} differ in dtype or device; build both alike")


class Adjoint(LinearOperator):
    """Aᵀ, (n, m), of an (m, n) operator A.

    Cost: a product costs one transposed product of A.
    """

    def __init__(self, A: LinearOperator) -> None:
        super().__init__((A.shape[1], A.shape[0]), A.dtype, A.device, A.structure.transposed())
        self.A = A

    def _matmat(self, X: Tensor) -> Tensor:
        return self.A._rmatmat(X)

    def _rmatmat(self, X: Tensor) -> Tensor:
        return self.A._matmat(X)

    @property
    def T(self) -> LinearOperator:  # noqa: N802
        """The operator that this is the transpose of."""
        return self.A

    def to_dense(self) -> Tensor:
        """The transposed matrix, (n, m).

        Cost: that of A, and a view.
        """
        return self.A.to_dense().mT


class Scaled(LinearOperator):
    """c A for a finite real number c.

    Args:
        A: an operator.
        factor: c.

    Cost: one product of A and one multiplication of the result.
    """

    def __init__(self, A: LinearOperator, factor: float) -> None:
        super().__init__(A.shape, A.dtype, A.device, A.structure.scaled(factor))
        self.A, self.scalar = A, factor

    def _matmat(self, X: Tensor) -> Tensor:
        return self.scalar * self.A._matmat(X)

    def _rmatmat(self, X: Tensor) -> Tensor:
        return self.scalar * self.A._rmatmat(X)

    def factor(self) -> LinearOperator:
        """√c B for the factor B of A, where c >= 0.

        Raises:
            TypeError: none is known.

        Cost: that of the factor of A.
        """
        return math.sqrt(self.scalar) * self.A.factor() if self.scalar >= 0 else super().factor()

    def row_gram(self, memory_budget: int | None = None) -> Tensor:
        """c² A Aᵀ, (m, m) in float64.

        Args:
            memory_budget: see `LinearOperator.row_gram`.

        Cost: that of A.
        """
        return self.A.row_gram(memory_budget).mul_(self.scalar).mul_(self.scalar)


class Sum(LinearOperator):
    """A + B of two operators of one shape; A + Aᵀ is known to be symmetric.

    Raises:
        ValueError: different shapes.
        TypeError: different dtypes or devices.

    Cost: one product of each.
    """

    def __init__(self, A: LinearOperator, B: LinearOperator) -> None:
        if A.shape != B.shape:
            raise ValueError(f"A + B needs equal shapes, got {A} and {B}")
        _require_alike(A, B, "A + B")
        structure = A.structure.added(B.structure)
        if A.T is B or B.T is A:
            structure |= Structure.SYMMETRIC
        super().__init__(A.shape, A.dtype, A.device, structure)
        self.A, self.B = A, B

    def _matmat(self, X: Tensor) -> Tensor:
        return self.A._matmat(X) + self.B._matmat(X)

    def _rmatmat(self, X: Tensor) -> Tensor:
        return self.A._rmatmat(X) + self.B._rmatmat(X)

    def factor(self) -> LinearOperator:
        """The factors of A and B, one above the other.

        Raises:
            TypeError: none is known.

        Cost: that of both factors.
        """
        from .block import Stacked

        return Stacked([self.A.factor(), self.B.factor()])


class Product(LinearOperator):
    """A B of an (m, l) and an (l, n) operator.

    Products that read the same from both ends are recognised: Aᵀ A and A Aᵀ are positive semidefinite, and Bᵀ A B has
    the symmetry and definiteness of A.

    Raises:
        ValueError: inner sizes that differ.
        TypeError: different dtypes or devices.

    Cost: one product of each.
    """

    def __init__(self, A: LinearOperator, B: LinearOperator) -> None:
        if A.shape[1] != B.shape[0]:
            raise ValueError(f"A @ B needs as many columns of A as rows of B, got {A} and {B}")
        _require_alike(A, B, "A @ B")
        isometry = A.structure & B.structure & Structure.ISOMETRY
        factors = _factors(A) + _factors(B)
        super().__init__((A.shape[0], B.shape[1]), A.dtype, A.device, isometry | _palindrome(factors))
        self.A, self.B = A, B

    def _matmat(self, X: Tensor) -> Tensor:
        return self.A._matmat(self.B._matmat(X))

    def _rmatmat(self, X: Tensor) -> Tensor:
        return self.B._rmatmat(self.A._rmatmat(X))

    def factor(self) -> LinearOperator:
        """Of F₁ᵀ … F_pᵀ F_p … F₁ the right half F_p … F₁; of one with M in the middle, the factor of M before it.

        Raises:
            TypeError: none is known.

        Cost: none, or that of the factor in the middle.
        """
        factors = _factors(self)
        if not _mirrored(factors):
            return super().factor()
        half = len(factors) // 2
        middle = [factors[half].factor()] if len(factors) % 2 else []
        return functools.reduce(Product, [*middle, *factors[-half:]])


def _factors(A: LinearOperator) -> list[LinearOperator]:
    return _factors(A.A) + _factors(A.B) if isinstance(A, Product) else [A]


def _palindrome(factors: list[LinearOperator]) -> Structure:
    """Structure of F₁ … F_p where F_i is the transpose of F_{p+1-i}; NONE if they do not mirror."""
    if not _mirrored(factors):
        return Structure.NONE
    return Structure.PSD if len(factors) % 2 == 0 else factors[len(factors) // 2].structure & ~Structure.ISOMETRY


def _mirrored(factors: list[LinearOperator]) -> bool:
    half = len(factors) // 2
    pairs = zip(factors[:half], reversed(factors[-half:]), strict=True)
    return all(left.T is right or right.T is left for left, right in pairs)


class Congruence(LinearOperator):
    """Bᵀ A B, (k, k), of a square operator A, (n, n), and an operator B, (n, k).

    It keeps the symmetry and definiteness of A by construction, and is the one class behind restricted, projected,
    masked, deflated and low-rank operators.

    Raises:
        ValueError: A not square, or sizes that do not fit.
        TypeError: different dtypes or devices.

    Cost: one product of A, one of B and one of Bᵀ.
    """

    def __init__(self, A: LinearOperator, B: LinearOperator) -> None:
        if A.shape[0] != A.shape[1] or A.shape[1] != B.shape[0]:
            raise ValueError(f"B.T @ A @ B needs a square A of the size of B's rows, got A = {A} and B = {B}")
        _require_alike(A, B, "B.T @ A @ B")
        super().__init__((B.shape[1], B.shape[1]), A.dtype, A.device, A.structure & ~Structure.ISOMETRY)
        self.A, self.B = A, B

    def _matmat(self, X: Tensor) -> Tensor:
        return self.B._rmatmat(self.A._matmat(self.B._matmat(X)))

    def _rmatmat(self, X: Tensor) -> Tensor:
        return self.B._rmatmat(self.A._rmatmat(self.B._matmat(X)))

    def factor(self) -> LinearOperator:
        """The factor of A, times B.

        Raises:
            TypeError: none is known.

        Cost: that of the factor of A.
        """
        return self.A.factor() @ self.B
