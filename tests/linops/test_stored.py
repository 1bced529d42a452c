"""Subspaces saved and loaded: of every kind and dtype, bit by bit, and what is no such file."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from subspace_contract import KINDS, dense

from eigenspan.linops import EigenSubspace, MaskSubspace, OrthonormalSubspace, Subspace

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def equal(A, B):
    """The same kind, dtype and bits."""
    assert type(A) is type(B)
    assert (A.dtype, A.ambient_dim, A.dim) == (B.dtype, B.ambient_dim, B.dim)
    if isinstance(A, MaskSubspace):
        assert torch.equal(A.mask.cpu(), B.mask.cpu())
    else:
        assert torch.equal(A.vectors.cpu(), B.vectors.cpu())
    if isinstance(A, EigenSubspace):
        assert A.eigenvalues.dtype == B.eigenvalues.dtype
        assert torch.equal(A.eigenvalues.cpu(), B.eigenvalues.cpu())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["mask", "basis", "eigen"])
def test_what_is_loaded_is_what_was_saved(kind, dtype, device, tmp_path):
    A = KINDS[kind](11, 4, 3, torch.float64, device).to(dtype=dtype)
    A.save(tmp_path / "subspace")
    for cls in (Subspace, type(A)):
        for place in ("cpu", device):
            B = cls.load(tmp_path / "subspace", device=place)
            assert B.device.type == torch.device(place).type
            equal(A, B)
    assert [path.name for path in tmp_path.iterdir()] == ["subspace"]


def test_strides_and_eigenvalues_of_another_dtype(tmp_path):
    vectors = OrthonormalSubspace.random(9, 3, dtype=torch.float64).vectors.to(torch.bfloat16)
    for columns in (vectors.mT.contiguous().mT, vectors.repeat_interleave(2, 1)[:, ::2]):
        A = EigenSubspace(columns, torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64), check=False)
        A.save(tmp_path / "A")
        equal(A, Subspace.load(tmp_path / "A"))


def test_an_eigenspace_is_an_orthonormal_subspace(tmp_path):
    A = KINDS["eigen"](9, 3, 1, torch.float32, "cpu")
    A.save(tmp_path / "A")
    equal(A, OrthonormalSubspace.load(tmp_path / "A"))


@pytest.mark.parametrize("n", [1, 8, 13, 100_000])
def test_a_mask_takes_a_bit_a_coordinate(n, tmp_path):
    A = MaskSubspace.random(n, (n + 1) // 2, seed=1)
    A.save(tmp_path / "A")
    equal(A, MaskSubspace.load(tmp_path / "A"))
    assert (tmp_path / "A").stat().st_size < n / 8 + 1000  # of names and headers


@pytest.mark.parametrize("scores", [[1.0, 1.0, 0.0], [math.inf, math.inf, 0.0], [2.0, 1.0, 0.0]])
def test_a_mask_keeps_its_ties(scores, tmp_path):
    mask = MaskSubspace.top_k(torch.tensor(scores), 1)
    mask.save(tmp_path / "mask.npz")
    assert MaskSubspace.load(tmp_path / "mask.npz").ties == mask.ties


def test_another_kind(tmp_path):
    MaskSubspace.random(9, 3).save(tmp_path / "A")
    with pytest.raises(ValueError, match=r"holds no OrthonormalSubspace but <MaskSubspace 3 of 9 .*>"):
        OrthonormalSubspace.load(tmp_path / "A")


def test_a_class_of_a_user_has_no_form(tmp_path):
    A = KINDS["user"](9, 3, 1, torch.float64, "cpu")
    with pytest.raises(TypeError, match=r"no form in files; save OrthonormalSubspace\(A\.basis\.to_dense\(\)\)"):
        A.save(tmp_path / "A")
    assert not list(tmp_path.iterdir())
    OrthonormalSubspace(A.basis.to_dense()).save(tmp_path / "A")
    assert torch.equal(dense(Subspace.load(tmp_path / "A")), dense(A))


def test_no_such_files(tmp_path):
    with pytest.raises(OSError, match="none"):
        Subspace.load(tmp_path / "none")
    (tmp_path / "text").write_text("text")
    numpy.savez(tmp_path / "other.npz", header='{"kind": "sphere", "dtypes": {}}')
    numpy.savez(tmp_path / "arrays.npz", vectors=numpy.eye(3))
    numpy.savez(tmp_path / "pickled.npz", header=numpy.array([{}], dtype=object))
    OrthonormalSubspace.random(9, 3).save(tmp_path / "whole")
    (tmp_path / "half").write_bytes((tmp_path / "whole").read_bytes()[:200])
    for name in ("text", "other.npz", "arrays.npz", "pickled.npz", "half"):
        with pytest.raises(ValueError, match=rf"{name} holds no Subspace that can be loaded"):
            Subspace.load(tmp_path / name)
    with pytest.raises(ValueError, match="it has vectors, and no header: load it by the class of that"):
        Subspace.load(tmp_path / "arrays.npz")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "A"
    A = OrthonormalSubspace.random(9, 3, seed=1)
    A.save(path)

    def fails(*_, **__):
        raise OSError("the disk is full")

    monkeypatch.setattr(numpy, "savez", fails)
    with pytest.raises(OSError, match="the disk is full"):
        OrthonormalSubspace.random(9, 3, seed=2).save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["A"]
    equal(A, Subspace.load(path))
