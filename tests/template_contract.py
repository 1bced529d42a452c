"""What holds for every solver, of eigenvalues and of singular values alike."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy
import pytest
import torch
from solver_cases import quietly
from torch import Tensor

from eigenspan.linops import LinearOperator, OrthonormalSubspace
from eigenspan.solvers import SolveReport


def tensors(result) -> dict[str, Tensor]:
    return {name: value for name, value in attrs.asdict(result, recurse=False).items() if isinstance(value, Tensor)}


class TemplateContract:
    """What both templates have: inherit, define `make` and `slowly_decaying`, and give a fixture ``A``.

    Attributes:
        random: whether a seed changes the result.
        uses_start: whether it takes a guess of the space of (right singular) vectors.
        saved: parameters beside k of a solver whose result goes through a file.
    """

    random = True
    uses_start = False
    saved: ClassVar[dict]

    def slowly_decaying(self, dtype: torch.dtype, device: str) -> LinearOperator:
        raise NotImplementedError

    # -- random numbers -----------------------------------------------------------------------------------------------

    def test_same_seed_same_result_whatever_the_global_generators_do(self, dtype, device):
        A = self.slowly_decaying(dtype, device)
        first = quietly(self.make(6, seed=3), A)
        torch.manual_seed(9)
        state, legacy = torch.get_rng_state(), numpy.random.get_state()  # noqa: NPY002
        second = quietly(self.make(6, seed=3), A)
        assert len(tensors(first)) >= 3
        for name, tensor in tensors(first).items():
            assert torch.equal(tensor, getattr(second, name)), name
        assert torch.equal(torch.get_rng_state(), state)
        numpy.testing.assert_equal(numpy.random.get_state(), legacy)  # noqa: NPY002

    # -- the call -----------------------------------------------------------------------------------------------------

    def test_bad_starts(self, A):
        if not self.uses_start:
            return
        n = A.shape[1]
        block = torch.ones(n, 2, dtype=A.dtype, device=A.device)
        for wrong in (block.float(), OrthonormalSubspace.random(n, 2, device=A.device), numpy.ones((n, 2)), "best"):
            with pytest.raises(TypeError, match="a start for"):
                self.make(6).solve(A, start=wrong)
        for wrong in (block[:-1], block[:, 0], block[:, :0], torch.ones(n + 30, 2, dtype=A.dtype, device=A.device)):
            with pytest.raises(ValueError, match=rf"shape \({n}, b\)"):
                self.make(6).solve(A, start=wrong)

    def test_progress_bar(self, A, capsys):
        quiet = quietly(self.make(6), A)
        assert capsys.readouterr().err == ""
        shown = quietly(self.make(6), A, progress=True)
        written = capsys.readouterr().err
        assert f"{type(quiet.report.solver).__name__}: " in written
        assert "products" in written
        vectors = [name for name in tensors(quiet) if name.endswith("vectors")]
        assert vectors
        assert all(torch.equal(getattr(quiet, name), getattr(shown, name)) for name in vectors)

    def test_result_survives_a_file(self, A, tmp_path):
        result = quietly(self.make(6, **self.saved), A)
        path = tmp_path / "result.npz"
        result.save(path)
        loaded = type(result).load(path, device=A.device)
        assert len(tensors(result)) >= 3
        for name, tensor in tensors(result).items():
            torch.testing.assert_close(getattr(loaded, name), tensor, rtol=0, atol=0, equal_nan=True)
        assert loaded.report == result.report
        assert loaded.report.solver == self.make(6, **self.saved)
        assert SolveReport.from_dict(result.report.to_dict()) == result.report

    # -- bad input ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("k", [0, -1])
    def test_none_wanted(self, k):
        with pytest.raises(ValueError, match=f"k is at least 1, got {k}"):
            self.make(k)

    @pytest.mark.parametrize("k", [2.0, "2", True])
    def test_k_that_is_no_integer(self, k):
        with pytest.raises(TypeError, match="k is a positive integer"):
            self.make(k)

    @pytest.mark.parametrize("seed", [-1, 0.5])
    def test_seed_that_is_none(self, seed):
        with pytest.raises(ValueError, match="seed is a non-negative integer"):
            self.make(2, seed=seed)
