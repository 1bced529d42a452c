"""Cores against dense least squares, and what they say of their own error against the true one."""

from __future__ import annotations

import math

import pytest
import torch

from eigenspan.solvers.cores import Core, least_squares_core, two_sided_core

F64 = torch.float64


def matrices(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=F64) for shape in shapes]


def best(right, image, left, coimage):
    """The minimiser of ‖image - C right‖² + ‖coimage - Cᵀ left‖² over a basis of the matrices, by LAPACK."""
    o = len(right)
    units = torch.eye(o * o, dtype=F64).reshape(o * o, o, o)
    design = torch.cat([(units @ right).flatten(1), (units.mT @ left).flatten(1)], dim=1).mT
    target = torch.cat([image.flatten(), coimage.flatten()])[:, None]
    return torch.linalg.lstsq(design, target, driver="gelsd").solution.reshape(o, o)


SIZES = pytest.mark.parametrize(("o", "s"), [(1, 1), (1, 5), (3, 3), (4, 9)])


@SIZES
def test_least_squares_core_is_the_least_squares_solution(o, s):
    right, image, left, coimage = matrices((o, s), (o, s), (o, s), (o, s))
    core = least_squares_core(right, image, left, coimage).matrix
    torch.testing.assert_close(core, best(right, image, left, coimage), rtol=0, atol=1e-10)


@SIZES
def test_it_is_symmetric_where_both_sides_are_the_same(o, s):
    """By eigh, which reads one triangle, this would go unseen."""
    test, image = matrices((o, s), (o, s))
    core = least_squares_core(test, image, test, image).matrix
    torch.testing.assert_close(core, core.mT, rtol=0, atol=1e-12)


@SIZES
def test_two_sided_core_is_two_least_squares_solves(o, s):
    left, right, squared = matrices((o, s), (o, s), (s, s))
    core = two_sided_core(left, squared, right).matrix
    expected = torch.linalg.pinv(left.mT) @ squared @ torch.linalg.pinv(right)
    torch.testing.assert_close(core, expected, rtol=0, atol=1e-10)


def both(left, right, C):
    """Both cores, from the products of Q C Pᵀ itself."""
    yield least_squares_core(right, C @ right, left, C.mT @ left)
    yield two_sided_core(left, left.mT @ C @ right, right)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_both_recover_a_matrix_and_find_no_fault(scale):
    left, right, C = matrices((5, 12), (5, 12), (5, 5))
    for core in both(left, right, scale * C):
        torch.testing.assert_close(core.matrix, scale * C, rtol=0, atol=1e-12 * scale)
        assert core.misfit < 1e-14
        assert core.error < 1e-12 * scale
        assert core.notes(torch.zeros(5), "", 1e-16) == ()


def test_of_a_test_matrix_of_lower_rank_the_least_core():
    """C of what was seen, zero elsewhere, and nothing that is not finite."""
    test = matrices((1, 6))[0] * torch.tensor([[1.0], [1.0], [0.0]], dtype=F64)
    seen = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]], dtype=F64)
    for core in both(test, test, torch.eye(3, dtype=F64)):
        torch.testing.assert_close(core.matrix, seen, rtol=0, atol=1e-12)
        assert math.isfinite(core.error)
    for core in both(0 * test, 0 * test, torch.eye(3, dtype=F64)):
        assert torch.equal(core.matrix, torch.zeros(3, 3, dtype=F64))
        assert core.misfit == core.error == 0


def spanned(W, o):
    return torch.linalg.svd(W, full_matrices=False).U[:, :o]


@pytest.mark.parametrize("decay", [0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_error_is_that_of_the_core_within_a_factor_of_two(decay, seed):
    """Of matrices without symmetry whose singular values decay slowly, in the spaces that the sketches span."""
    n, o, s = 300, 20, 45
    U, V, omega, upsilon, phi, psi = matrices((n, n), (n, n), (n, s), (n, s), (n, s), (n, s), seed=seed)
    A = (torch.linalg.qr(U)[0] * torch.arange(1, n + 1, dtype=F64) ** -decay) @ torch.linalg.qr(V)[0]
    Q, P = spanned(A @ omega, o), spanned(A.mT @ upsilon, o)
    first, second = spanned(A @ omega[:, :o], o), spanned(A.mT @ upsilon[:, :o], o)
    for left, right, core in (
        (Q, P, least_squares_core(P.mT @ omega, Q.mT @ A @ omega, Q.mT @ upsilon, P.mT @ A.mT @ upsilon)),
        (first, second, two_sided_core(first.mT @ phi, phi.mT @ A @ psi, second.mT @ psi)),
    ):
        error = float(torch.linalg.matrix_norm(core.matrix - left.mT @ A @ right, 2))
        assert error / 2 < core.error < 2 * error


class TestNotes:
    def notes(self, misfit, error, values=(5.0, -2.0, 1.0), rounding=1e-16):
        return Core(torch.eye(3, dtype=F64), misfit, error).notes(torch.tensor(values), "do this", rounding)

    def test_counts_the_values_that_are_below_twice_the_error(self):
        (note,) = self.notes(0.25, 1.5)
        assert note == (
            "The core is ill-determined: 0.25 of the norm of the products is unexplained, so it is off by about "
            "1.5e+00, and 2 of 3 values are below twice that: do this."
        )

    @pytest.mark.parametrize(("misfit", "error"), [(0.25, 0.4), (1e-15, 1.5)])
    def test_none_where_values_stand_out_or_only_rounding_errors_are_left(self, misfit, error):
        assert self.notes(misfit, error) == ()

    def test_a_fit_without_redundancy(self):
        square, C = matrices((4, 4), (4, 4))
        for core in both(square, square, C):
            (note,) = core.notes(torch.ones(4), "do this", 1e-16)
            assert note.endswith("so nothing tells how far off it is: do this.")
