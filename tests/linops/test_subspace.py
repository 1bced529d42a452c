"""Subspaces given by vectors, by eigenvectors, and by a class of the user's."""

from __future__ import annotations

import numpy
import pytest
import scipy.linalg
import torch
from subspace_contract import KINDS, SubspaceContract, dense

from eigenspan.linops import EigenSubspace, OrthonormalSubspace


class TestOrthonormal(SubspaceContract):
    make = staticmethod(KINDS["basis"])


class TestEigen(SubspaceContract):
    make = staticmethod(KINDS["eigen"])


class TestOfAUser(SubspaceContract):
    """It defines ``basis`` and ``to``; the rest is inherited, and the built-in kinds need not know it."""

    make = staticmethod(KINDS["user"])


class TestFromVectors:
    def test_keeps_the_vectors_without_a_copy_or_a_graph(self, device):
        vectors = torch.eye(5, 2, device=device, requires_grad=True)
        subspace = OrthonormalSubspace(vectors)
        assert subspace.vectors.data_ptr() == vectors.data_ptr()
        assert not subspace.vectors.requires_grad

    @pytest.mark.parametrize("shape", [(5,), (5, 0), (2, 3), (2, 3, 3)])
    def test_wrong_shapes(self, shape):
        with pytest.raises(ValueError, match=r"\(n, k\) with 1 <= k <= n, got shape"):
            OrthonormalSubspace(torch.zeros(shape))

    @pytest.mark.parametrize("defect", [1e-2, float("nan")])
    def test_columns_that_are_not_orthonormal(self, defect):
        vectors = torch.eye(5, 2, dtype=torch.float64)
        vectors[1, 0] = defect
        with pytest.raises(ValueError, match=r"not orthonormal .*use OrthonormalSubspace\.from_span"):
            OrthonormalSubspace(vectors)
        assert OrthonormalSubspace(vectors, check=False).dim == 2

    @pytest.mark.parametrize(("dtype", "passes", "fails"), [(torch.float32, 1e-4, 1e-3), (torch.float64, 1e-9, 1e-7)])
    def test_orthonormal_to_the_root_of_the_precision(self, dtype, passes, fails):
        vectors = torch.eye(6, 3, dtype=dtype)
        vectors[0, 1] = passes
        OrthonormalSubspace(vectors)
        vectors[0, 1] = fails
        with pytest.raises(ValueError, match="not orthonormal"):
            OrthonormalSubspace(vectors)

    def test_leverage_needs_no_second_block(self):
        vectors = OrthonormalSubspace.random(400, 7, dtype=torch.float64).vectors
        torch.testing.assert_close(OrthonormalSubspace(vectors).leverage(), vectors.square().sum(dim=1))


def orthonormality_error(subspace):
    """The largest entry of BᵀB - I over what the rounding of entries, and of factors in float64, may leave."""
    basis = subspace.vectors.double()
    identity = torch.eye(subspace.dim, dtype=torch.float64, device=basis.device)
    return float((basis.mT @ basis - identity).abs().max()) / max(
        4 * torch.finfo(subspace.dtype).eps, 100 * torch.finfo(torch.float64).eps
    )


def test_rows_have_numbers_from_0_to_n():
    subspace = OrthonormalSubspace.random(9, 3)
    assert torch.equal(subspace.rows(torch.tensor([8, 0])), subspace.vectors[[8, 0]])
    for wrong in ([9], [-1], [0, -9]):
        with pytest.raises(ValueError, match="rows are numbered from 0 to 8"):
            subspace.rows(torch.tensor(wrong))
    with pytest.raises(TypeError, match=r"numbers, a tensor of integers, got torch\.bool"):
        subspace.rows(torch.ones(9, dtype=torch.bool))


class TestFromSpan:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("rank", [1, 3, 5])
    @pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
    def test_is_the_column_space(self, dtype, rank, scale, device):
        """Of dependent columns, as SciPy finds it, at any scale."""
        generator = torch.Generator().manual_seed(0)
        X = torch.randn(20, rank, generator=generator).double() @ torch.randn(rank, 5, generator=generator).double()
        subspace = OrthonormalSubspace.from_span((scale * X).to(device, dtype))
        assert (subspace.dim, subspace.dtype) == (rank, dtype)
        expected = scipy.linalg.orth(X.numpy(), rcond=1e-5)
        angles = scipy.linalg.subspace_angles(dense(subspace).numpy(), expected)
        # Rounded columns of a block whose condition is of the order of a hundred.
        assert angles.max() < 200 * torch.finfo(dtype).eps

    @pytest.mark.parametrize("block", [torch.ones(4, 2, dtype=torch.int64), torch.ones(4, 2) * 1j, numpy.eye(4)])
    def test_takes_real_numbers(self, block):
        with pytest.raises(TypeError, match="from_span takes a tensor of a real floating-point dtype, got"):
            OrthonormalSubspace.from_span(block)

    def test_more_columns_than_rows(self):
        assert OrthonormalSubspace.from_span(torch.randn(4, 9)).dim == 4

    def test_rank_is_that_of_numpy(self):
        """A singular value either side of max(n, k) eps σ₁."""
        U = OrthonormalSubspace.random(50, 3, dtype=torch.float64).vectors
        for smallest in (1e-14, 1e-13):
            X = U * torch.tensor([1.0, 0.5, smallest], dtype=torch.float64)
            assert OrthonormalSubspace.from_span(X).dim == numpy.linalg.matrix_rank(X.numpy())

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
    def test_rank_of_long_columns(self, dtype, device):
        """Neither is a short column lost among long ones nor a dependent one found: roundings do not add up over n."""
        X = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0)).to(device, dtype)
        X[:, 1] *= 0.05
        assert OrthonormalSubspace.from_span(X).dim == 2
        assert OrthonormalSubspace.from_span(torch.cat([X, X @ X.new_tensor([[0.3], [0.3]])], dim=1)).dim == 2

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_basis_is_orthonormal_to_the_precision(self, dtype, device):
        """With a condition number of a tenth of that at which the rank drops."""
        X = OrthonormalSubspace.random(3000, 4, dtype=torch.float64, device=device).vectors
        mixing = OrthonormalSubspace.random(4, 4, seed=1, dtype=torch.float64, device=device).vectors
        smallest = 10 * max(4 * torch.finfo(dtype).eps, 3000 * torch.finfo(torch.float64).eps)
        block = X * X.new_tensor([1.0, 0.5, 0.5, smallest]) @ mixing
        assert orthonormality_error(OrthonormalSubspace.from_span(block.to(dtype))) < 1

    @pytest.mark.parametrize("shape", [(5, 0), (0, 2), (5,)])
    def test_nothing_to_span(self, shape):
        with pytest.raises(ValueError, match="finite, non-empty"):
            OrthonormalSubspace.from_span(torch.ones(shape))

    def test_zeros_and_entries_that_are_not_finite(self):
        with pytest.raises(ValueError, match="all columns are zero"):
            OrthonormalSubspace.from_span(torch.zeros(5, 2))
        with pytest.raises(ValueError, match="finite"):
            OrthonormalSubspace.from_span(torch.tensor([[1.0], [float("nan")]]))

    def test_of_eigenvectors_is_a_plain_subspace(self):
        assert type(EigenSubspace.from_span(torch.randn(5, 2))) is OrthonormalSubspace


class TestRandom:
    def test_seed_gives_the_same_on_every_device(self, device):
        here = OrthonormalSubspace.random(9, 3, seed=4, device=device)
        assert here.device.type == device
        torch.testing.assert_close(dense(here), dense(OrthonormalSubspace.random(9, 3, seed=4)), rtol=0, atol=1e-6)
        assert dense(here).tolist() != dense(OrthonormalSubspace.random(9, 3, seed=5)).tolist()

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize(("n", "k"), [(60_000, 20), (40, 40)])
    def test_is_orthonormal_to_the_precision(self, dtype, n, k, device):
        assert orthonormality_error(OrthonormalSubspace.random(n, k, dtype=dtype, device=device)) < 1

    def test_leaves_the_global_generator(self):
        before = torch.get_rng_state()
        OrthonormalSubspace.random(9, 3)
        assert torch.equal(torch.get_rng_state(), before)

    def test_is_uniform(self):
        """The leverage of an axis has the Beta(k/2, (n-k)/2) distribution."""
        n, k, samples = 6, 2, 2000
        leverages = torch.stack(
            [OrthonormalSubspace.random(n, k, seed=seed, dtype=torch.float64).leverage() for seed in range(samples)]
        )
        variance = 2 * k * (n - k) / (n**2 * (n + 2))
        error = 5 * (variance / samples) ** 0.5
        torch.testing.assert_close(leverages.mean(0), torch.full((n,), k / n).double(), rtol=0, atol=error)
        torch.testing.assert_close(leverages.var(0), torch.full((n,), variance).double(), rtol=0.2, atol=0)

    @pytest.mark.parametrize("k", [0, 10])
    def test_dimension_out_of_range(self, k):
        with pytest.raises(ValueError, match=f"1 <= k <= n, got k={k}, n=9"):
            OrthonormalSubspace.random(9, k)


class TestEigenSubspace:
    @pytest.fixture
    def subspace(self, device):
        return KINDS["eigen"](9, 4, 0, torch.float64, device)

    @pytest.mark.parametrize("j", [1, 3, 4])
    def test_leading_is_a_view_of_the_first(self, subspace, j):
        first = subspace.leading(j)
        assert isinstance(first, EigenSubspace)
        assert (first.dim, first.eigenvalues.tolist()) == (j, subspace.eigenvalues[:j].tolist())
        assert first.vectors.data_ptr() == subspace.vectors.data_ptr()
        assert torch.equal(first.vectors, subspace.vectors[:, :j])

    @pytest.mark.parametrize("j", [0, 5, -1, 2.0, None])
    def test_leading_out_of_range(self, subspace, j):
        with pytest.raises(ValueError, match=rf"leading\(j\) takes an integer 1 <= j <= 4, got {j}"):
            subspace.leading(j)

    def test_conversion_takes_the_eigenvalues_along(self, subspace):
        converted = subspace.to(dtype=torch.float32)
        assert converted.eigenvalues.dtype == torch.float32
        assert converted.eigenvalues.tolist() == subspace.eigenvalues.tolist()

    @pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), ()])
    def test_as_many_eigenvalues_as_vectors(self, subspace, shape):
        with pytest.raises(ValueError, match="4 eigenvectors need as many eigenvalues"):
            EigenSubspace(subspace.vectors, torch.ones(shape))

    def test_vectors_that_are_not_orthonormal(self):
        """No advice to use from_span, which would mix eigenvectors."""
        with pytest.raises(ValueError, match=r"not orthonormal \(Gram matrix off by 2\.0e\+00\)$"):
            EigenSubspace(torch.ones(2, 2), torch.ones(2))


def test_arguments_of_other_kinds():
    with pytest.raises(TypeError, match=r"a basis is a tensor, \(n, k\), got list; convert it"):
        OrthonormalSubspace([[1.0]])
    with pytest.raises(TypeError, match=r"eigenvalues are a tensor, \(k,\), got ndarray; convert them"):
        EigenSubspace(torch.eye(3), numpy.ones(3))
