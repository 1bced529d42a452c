"""Operators of other libraries as ours, and ours as SciPy's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy
import scipy
import torch
from torch import Tensor

from .basic import Declared, Dense, Function
from .operator import LinearOperator
from .structure import Structure

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator as ScipyLinearOperator


def as_operator(
    A: Any,
    *,
    shape: tuple[int, int] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    structure: Structure = Structure.NONE,
) -> LinearOperator:
    """The linear operator that ``A`` stands for.

    Args:
        A: one of

            - an operator of this library, returned as it is unless ``structure`` adds to what it knows;
            - a two-dimensional tensor or array, which is symmetric if its entries are, exactly; a sparse one stays so;
            - a SciPy sparse matrix, likewise, or ``scipy.sparse.linalg.LinearOperator``, applied on the CPU in NumPy;
            - any object with ``shape``, a torch ``dtype``, a ``device`` and ``@`` on tensors (curvlinops), whose
              transpose is ``adjoint()`` or ``T``, and which is symmetric if its ``SELF_ADJOINT`` is true;
            - a function from (n, k) to (m, k) tensors, for which ``shape`` and ``dtype`` are required.
        shape: (m, n), for a function.
        dtype: for a function.
        device: for a function; the CPU if left out.
        structure: what is known of A beyond what A says itself.

    Raises:
        TypeError: nothing that is known to be linear, a function without shape and dtype, or these for anything else.

    Cost: none but, for a square matrix, a comparison with its transpose; products cost what ``A @ X`` costs, and SciPy
    operators a copy to and from NumPy.
    """
    if not isinstance(structure, Structure):
        raise TypeError(f"as_operator: structure is a Structure, such as Structure.SYMMETRIC, got {structure!r}")
    is_function = callable(A) and not hasattr(A, "shape")
    superfluous = [
        name for name, given in (("shape", shape), ("dtype", dtype), ("device", device)) if given is not None
    ]
    if superfluous and not is_function:
        raise TypeError(
            f"as_operator: {' and '.join(superfluous)} go with a function; a {type(A).__name__} has its own: "
            "convert it first"
        )
    if isinstance(A, LinearOperator):
        return A if structure in A.structure else Declared(A, structure)
    if isinstance(A, Tensor) and A.layout is not torch.strided and A.ndim == 2:
        return _from_sparse(A, structure)
    if isinstance(A, Tensor):
        return Dense(A, structure | _symmetry(A))
    if isinstance(A, numpy.ndarray):
        matrix = _copied(A)
        return Dense(matrix, structure | _symmetry(matrix))
    if scipy.sparse.issparse(A):
        is_symmetric = A.shape[0] == A.shape[1] and (A != A.T).nnz == 0
        structure |= Structure.SYMMETRIC if is_symmetric else Structure.NONE
    if isinstance(A, scipy.sparse.linalg.LinearOperator) or scipy.sparse.issparse(A):
        return _from_scipy(scipy.sparse.linalg.aslinearoperator(A), structure)
    if all(hasattr(A, name) for name in ("shape", "dtype", "device", "__matmul__")):
        declared = Structure.SYMMETRIC if getattr(A, "SELF_ADJOINT", False) is True else Structure.NONE
        return _from_duck(A, structure | declared)
    if isinstance(A, torch.nn.Module) and shape is None:
        raise TypeError(
            f"as_operator: {type(A).__name__} is a network; its Hessian is eigenspan.Hessian(model, loss, data)"
        )
    if callable(A):
        if shape is None or dtype is None:
            raise TypeError("as_operator: a function needs shape=(m, n) and dtype= beside it")
        return Function(A, shape, dtype, device or "cpu", structure=structure)
    raise TypeError(
        f"as_operator: {type(A).__name__} is no operator; expected an eigenspan, SciPy or curvlinops operator, "
        "a matrix, or a function with shape= and dtype="
    )


def to_scipy(A: LinearOperator) -> ScipyLinearOperator:
    """``A`` as a ``scipy.sparse.linalg.LinearOperator`` with all four entry points: matvec, matmat, rmatvec, rmatmat.

    Blocks come and go as NumPy arrays on the CPU, in the operator's dtype (float32 for the half precisions, which NumPy
    and SciPy do not have). Vectors of another real dtype are converted, as SciPy's own operators do.

    Raises:
        TypeError: a complex vector, when one is multiplied.

    Cost: products of A and two copies of the block.
    """
    exchanged = A.dtype if A.dtype in (torch.float32, torch.float64) else torch.float32
    numpy_dtype = numpy.dtype(str(exchanged).removeprefix("torch."))

    def through(product: Callable[[Tensor], Tensor], x: Any) -> Any:
        if numpy.iscomplexobj(x):
            raise TypeError(f"{A} is real and takes no complex vectors: multiply the real and imaginary parts apart")
        block = torch.from_numpy(numpy.array(x, dtype=numpy_dtype)).to(A.device, A.dtype)
        with torch.no_grad():
            result = product(block if block.ndim == 2 else block[:, None])
        return (result if block.ndim == 2 else result[:, 0]).to("cpu", exchanged).numpy()

    forward = functools.partial(through, A._matmat)
    backward = functools.partial(through, A._rmatmat)
    return scipy.sparse.linalg.LinearOperator(
        A.shape, matvec=forward, matmat=forward, rmatvec=backward, rmatmat=backward, dtype=numpy_dtype
    )


def _copied(A: Any) -> Tensor:
    """A new tensor of the entries of an array of any strides, negative ones too."""
    return torch.from_numpy(numpy.array(A, order="C"))


def _symmetry(A: Tensor) -> Structure:
    """SYMMETRIC if the matrix equals its transpose."""
    is_symmetric = A.ndim == 2 and A.shape[0] == A.shape[1] and torch.equal(A, A.mT)
    return Structure.SYMMETRIC if is_symmetric else Structure.NONE


def _from_sparse(A: Tensor, structure: Structure) -> Function:
    """Function over a sparse tensor of any layout."""
    matrix = A.detach().to_sparse().coalesce()
    transpose = matrix.mT.coalesce()
    if torch.equal(matrix.indices(), transpose.indices()) and torch.equal(matrix.values(), transpose.values()):
        structure |= Structure.SYMMETRIC if A.shape[0] == A.shape[1] else Structure.NONE
    return Function(
        functools.partial(torch.sparse.mm, matrix),
        (A.shape[0], A.shape[1]),
        A.dtype,
        A.device,
        rmatmat=functools.partial(torch.sparse.mm, transpose),
        structure=structure,
    )


def _from_scipy(A: ScipyLinearOperator, structure: Structure) -> Function:
    """Function over SciPy's own checks; integer matrices multiply as float64."""
    numpy_dtype = numpy.dtype(A.dtype if A.dtype is not None else numpy.float64)
    if numpy_dtype.kind in "iub":
        numpy_dtype = numpy.dtype(numpy.float64)
    dtype = torch.from_numpy(numpy.empty(0, dtype=numpy_dtype)).dtype

    def through(product: Callable[[Any], Any], rows: int, X: Tensor) -> Tensor:
        # SciPy's sparse products and column loops differ on empty blocks; there is nothing to multiply.
        if X.shape[1] == 0:
            return X.new_zeros(rows, 0)
        return _copied(product(X.numpy())).to(dtype)

    symmetric = Structure.SYMMETRIC in structure
    return Function(
        functools.partial(through, A.matmat, A.shape[0]),
        A.shape,
        dtype,
        rmatmat=None if symmetric else functools.partial(through, A.rmatmat, A.shape[1]),
        structure=structure,
    )


def _from_duck(A: Any, structure: Structure) -> Function:
    """Function over an operator that multiplies tensors; its transpose is looked up when it is first needed."""

    def forward(X: Tensor) -> Tensor:
        return X.new_zeros(A.shape[0], 0) if X.shape[1] == 0 else A @ X

    def backward(X: Tensor) -> Tensor:
        if not hasattr(A, "adjoint") and not hasattr(A, "T"):
            raise NotImplementedError(f"{type(A).__name__} has no transposed product: neither adjoint() nor T")
        transpose = A.adjoint() if hasattr(A, "adjoint") else A.T
        return X.new_zeros(A.shape[1], 0) if X.shape[1] == 0 else transpose @ X

    rows, columns = A.shape
    rmatmat = None if Structure.SYMMETRIC in structure else backward
    return Function(forward, (rows, columns), A.dtype, A.device, rmatmat=rmatmat, structure=structure)
