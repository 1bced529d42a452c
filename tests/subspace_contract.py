"""What holds for every subspace, and for every pair of kinds of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eigenspan.linops import (
    Declared,
    Dense,
    EigenSubspace,
    Embedding,
    LinearOperator,
    MaskSubspace,
    OrthonormalSubspace,
    Structure,
    Subspace,
)

N = 11
# A basis vector is orthonormal to a few roundings, and N of them are summed.
TOLERANCE = {torch.float64: 1e-14, torch.float32: 5e-6}


class Householder(Subspace):
    """The least that a user writes: the first k columns of I - 2 u uᵀ, as an operator of its own."""

    def __init__(self, u: Tensor, k: int) -> None:
        self.u, self.k = u / u.norm(), k

    @property
    def basis(self) -> LinearOperator:
        n = len(self.u)
        reflection = torch.eye(n, dtype=self.u.dtype, device=self.u.device) - 2 * torch.outer(self.u, self.u)
        return Declared(Dense(reflection[:, : self.k].clone()), Structure.ISOMETRY)

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Householder:
        return Householder(self.u.to(dtype=dtype, device=device), self.k)


def _user(n: int, k: int, seed: int, dtype: torch.dtype, device: str) -> Householder:
    u = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Householder(u.to(device, dtype), k)


def _eigen(n: int, k: int, seed: int, dtype: torch.dtype, device: str) -> EigenSubspace:
    vectors = OrthonormalSubspace.random(n, k, seed=seed, dtype=dtype, device=device).vectors
    return EigenSubspace(vectors, torch.arange(k, 0, -1, dtype=dtype, device=device))


KINDS = {
    "mask": lambda n, k, seed, dtype, device: MaskSubspace.random(n, k, seed=seed, dtype=dtype, device=device),
    "basis": lambda n, k, seed, dtype, device: OrthonormalSubspace.random(n, k, seed=seed, dtype=dtype, device=device),
    "eigen": _eigen,
    "user": _user,
}


def dense(A: LinearOperator | Subspace) -> Tensor:
    """The entries, or those of the basis, in float64 on the CPU, by products with the columns of the identity."""
    operator = A.basis if isinstance(A, Subspace) else A
    unit = torch.eye(operator.shape[1], dtype=operator.dtype, device=operator.device)
    return (operator @ unit).double().cpu()


def truthful(A: LinearOperator, matrix: Tensor, atol: float) -> bool:
    """Whether all that an operator knows of itself is true of its entries."""
    checks = [Structure.SYMMETRIC not in A.structure or torch.allclose(matrix, matrix.mT, rtol=0, atol=atol)]
    if Structure.ISOMETRY in A.structure:
        identity = torch.eye(matrix.shape[1], dtype=matrix.dtype)
        checks.append(torch.allclose(matrix.mT @ matrix, identity, rtol=0, atol=atol))
    if Structure.PSD in A.structure:
        checks.append(float(torch.linalg.eigvalsh(matrix).min()) > -atol)
    return all(checks)


class SubspaceContract:
    """Inherit and define `make`, and `kind` if the class has other constructors than those of `KINDS`."""

    def make(self, n: int, k: int, seed: int, dtype: torch.dtype, device: str) -> Subspace:
        raise NotImplementedError

    @pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
    def dtype(self, request):
        return request.param

    @pytest.fixture(params=[1, 4, N])
    def A(self, request, dtype, device):  # noqa: N802
        return self.make(N, request.param, 3, dtype, device)

    def close(self, actual: Tensor, expected: Tensor, like: Subspace) -> None:
        torch.testing.assert_close(actual.double().cpu(), expected, rtol=0, atol=TOLERANCE[like.dtype])

    # -- one subspace -------------------------------------------------------------------------------------------------

    def test_basis_is_an_isometry(self, A, dtype, device):
        B = dense(A)
        assert B.shape == A.basis.shape == (A.ambient_dim, A.dim)
        assert A.dtype == dtype
        assert A.device.type == device
        assert Structure.ISOMETRY in A.basis.structure
        self.close(B.mT @ B, torch.eye(A.dim, dtype=torch.float64), A)
        self.close(dense(A.basis.T), B.mT, A)

    def test_projector_is_idempotent_and_symmetric_of_rank_k(self, A):
        P, B = dense(A.projector), dense(A)
        self.close(P, B @ B.mT, A)
        self.close(P @ P, P, A)
        assert A.projector.is_psd
        assert truthful(A.projector, P, TOLERANCE[A.dtype])
        assert float(P.trace()) == pytest.approx(A.dim, rel=1e-5)

    def test_complement_projector(self, A):
        P, R = dense(A.projector), dense(A.complement_projector)
        self.close(P + R, torch.eye(N, dtype=torch.float64), A)
        self.close(R @ dense(A), torch.zeros(N, A.dim, dtype=torch.float64), A)
        assert A.complement_projector.is_psd
        assert truthful(A.complement_projector, R, TOLERANCE[A.dtype])

    @pytest.mark.parametrize("b", [0, 1, 3])
    def test_coordinates_and_lift(self, A, b):
        X = torch.randn(N, b, dtype=torch.float64).to(A.device, A.dtype)
        C = torch.randn(A.dim, b, dtype=torch.float64).to(A.device, A.dtype)
        B = dense(A)
        self.close(A.coordinates(X), B.mT @ X.double().cpu(), A)
        self.close(A.lift(C), B @ C.double().cpu(), A)
        self.close(A.coordinates(A.lift(C)), C.double().cpu(), A)
        self.close(A.lift(A.coordinates(X)), dense(A.projector) @ X.double().cpu(), A)

    def test_leverage_is_the_diagonal_of_the_projector_and_sums_to_k(self, A):
        leverage = A.leverage()
        assert (leverage.shape, leverage.dtype, leverage.device) == ((N,), A.dtype, A.device)
        self.close(leverage, dense(A.projector).diagonal(), A)
        assert float(leverage.sum()) == pytest.approx(A.dim, rel=1e-6)

    @pytest.mark.parametrize("target", [torch.float32, torch.float64], ids=str)
    def test_to_another_dtype(self, A, target):
        B = A.to(dtype=target)
        assert type(B) is type(A)
        assert (B.dtype, B.device, B.basis.dtype, B.leverage().dtype) == (target, A.device, target, target)
        torch.testing.assert_close(dense(B), dense(A), rtol=0, atol=TOLERANCE[torch.float32])
        self.close(dense(A.to()), dense(A), A)
        assert A.to(device=A.device).device == A.device

    def test_repr(self, A):
        name = str(A.dtype).removeprefix("torch.")
        assert repr(A) == f"<{type(A).__name__} {A.dim} of {N} {name} {A.device}>"

    def test_induced_operators(self, A):
        """Restricted, projected and deflated, of an unsymmetric matrix."""
        M = torch.randn(N, N, dtype=torch.float64).to(A.device, A.dtype)
        B, P, M64 = dense(A), dense(A.projector), M.double().cpu()
        R = torch.eye(N, dtype=torch.float64) - P
        # Each entry sums N² products.
        for actual, expected in (
            (Dense(M).restricted(A), B.mT @ M64 @ B),
            (Dense(M).projected(A), P @ M64 @ P),
            (Dense(M).deflated(A), R @ M64 @ R),
        ):
            torch.testing.assert_close(dense(actual), expected, rtol=0, atol=10 * TOLERANCE[A.dtype])

    # -- larger and smaller spaces ------------------------------------------------------------------------------------

    def test_embedded_and_extracted(self, A):
        indices = torch.randperm(N + 5)[:N].to(A.device)
        E = Embedding(indices, N + 5, A.dtype)
        large = A.embedded(E)
        assert (large.ambient_dim, large.dim, large.dtype, large.device) == (N + 5, A.dim, A.dtype, A.device)
        expected = torch.zeros(N + 5, N + 5, dtype=torch.float64)
        expected[indices.cpu()[:, None], indices.cpu()] = dense(A.projector)
        self.close(dense(large.projector), expected, A)
        small = large.extracted(E)
        self.close(dense(small.projector), dense(A.projector), A)
        if isinstance(A, MaskSubspace | OrthonormalSubspace):
            assert type(large) is type(small) is type(A)
        if isinstance(A, EigenSubspace):
            self.close(dense(large), dense(E) @ dense(A), A)
            assert torch.equal(large.eigenvalues, A.eigenvalues)
            assert torch.equal(small.eigenvalues, A.eigenvalues)

    def test_what_lies_outside_is_not_extracted(self, A):
        inside = A.leverage().sort(descending=True, stable=True).indices[: N - 1]
        if float(A.leverage().min()) == 0:  # a mask may lie in fewer axes
            inside = inside[inside != A.leverage().argmax()]
        with pytest.raises(ValueError, match=rf"{A} does not lie in the {len(inside)} coordinates .* is outside; take"):
            A.extracted(Embedding(inside, N, A.dtype))

    def test_embeddings_that_do_not_fit(self, A):
        E = Embedding(torch.arange(3, device=A.device), 5, A.dtype)
        other = {torch.float32: torch.float64, torch.float64: torch.float32}[A.dtype]
        for method in (A.embedded, A.extracted):
            with pytest.raises(ValueError, match=rf"{A} does not fit <Embedding 5x3 .*, which embeds R\^3 in R\^5"):
                method(E)
            with pytest.raises(TypeError, match="placed by an Embedding, got Tensor"):
                method(E.indices)
            with pytest.raises(TypeError, match="differ in dtype or device"):
                method(Embedding(torch.arange(N, device=A.device), N, other))

    # -- pairs --------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("l", [1, 3, N])
    @pytest.mark.parametrize("kind", KINDS)
    def test_cross_gram_and_residual_are_those_of_the_dense_bases(self, A, kind, l):  # noqa: E741
        other = KINDS[kind](N, l, 8, A.dtype, str(A.device))
        for left, right in ((A, other), (other, A)):
            B, C = dense(left), dense(right)
            gram, residual = left.cross_gram(right), left.residual(right)
            assert (gram.shape, residual.shape) == ((left.dim, right.dim), (N, right.dim))
            for operator, expected in ((gram, B.mT @ C), (residual, C - B @ (B.mT @ C))):
                assert (operator.dtype, operator.device) == (A.dtype, A.device)
                self.close(dense(operator), expected, A)
                self.close(operator.to_dense(), expected, A)
                self.close(dense(operator.T), expected.mT, A)
                assert truthful(operator, expected, TOLERANCE[A.dtype])

    def test_with_itself(self, A):
        self.close(dense(A.cross_gram(A)), torch.eye(A.dim, dtype=torch.float64), A)
        self.close(dense(A.residual(A)), torch.zeros(N, A.dim, dtype=torch.float64), A)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("method", ["cross_gram", "residual"])
    def test_mismatches_name_both(self, A, kind, method):
        larger = KINDS[kind](N + 1, 2, 0, A.dtype, str(A.device))
        wider = KINDS[kind](
            N, 2, 0, {torch.float32: torch.float64, torch.float64: torch.float32}[A.dtype], str(A.device)
        )
        for left, right in ((A, larger), (larger, A)):
            with pytest.raises(ValueError, match=f"{left} and {right} lie in spaces of different dimension"):
                getattr(left, method)(right)
        for left, right in ((A, wider), (wider, A)):
            with pytest.raises(
                TypeError, match=rf"{left} and {right} differ in dtype or device; convert one with \.to"
            ):
                getattr(left, method)(right)

    @pytest.mark.parametrize("method", ["cross_gram", "residual"])
    def test_compared_with_no_subspace(self, A, method):
        for other in (dense(A), A.basis, None):
            with pytest.raises(TypeError, match=f"compared with another Subspace, got {type(other).__name__}"):
                getattr(A, method)(other)
