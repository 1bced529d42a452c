"""Operators of curvlinops as ours: entries beside autograd's, structure, transposes, inverses, and solvers on them.

Everything is in float64: 1e-10 is far above rounding at this size, and far below what any mistake would make.
"""

import curvature_cases as cases
import pytest
import torch
from interop_cases import EXTRA, theirs_to_mend
from torch import nn

import eigenspan as es

curvlinops = pytest.importorskip("curvlinops", reason=EXTRA)
examples = pytest.importorskip("curvlinops.examples", reason=EXTRA)
pytestmark = theirs_to_mend

LOSS = nn.CrossEntropyLoss()


def close(found, expected, atol=1e-10):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def theirs(kind, **options):
    """One of their operators of the whole network, over two batches of different sizes."""
    model, (inputs, targets) = cases.mlp(), cases.classes(11)
    batches = [(inputs[:7], targets[:7]), (inputs[7:], targets[7:])]
    losses = () if "Jacobian" in kind else (LOSS,)
    return getattr(curvlinops, kind)(model, *losses, list(model.parameters()), batches, **options)


def kronecker_factored(kind):
    return theirs(kind, fisher_type="type-2")


def damped():
    G = theirs("GGNLinearOperator")
    return G + 0.1 * examples.IdentityLinearOperator(G._in_shape, G.device, G.dtype)


def dense(A):
    """The entries by their own product."""
    return (A @ torch.eye(A.shape[1], dtype=A.dtype)).detach()


@pytest.mark.parametrize(
    ("kind", "twin"),
    [
        ("HessianLinearOperator", lambda model, batch: cases.dense_hessian(model, LOSS, batch)),
        ("GGNLinearOperator", lambda model, batch: cases.dense_ggn(model, LOSS, batch)),
        (
            "EFLinearOperator",
            lambda model, batch: cases.reference_fisher(model, LOSS, batch, torch.ones(11, dtype=torch.float64)),
        ),
    ],
)
def test_curvature_is_symmetric_and_has_the_entries_of_autograd(kind, twin):
    A = es.as_operator(theirs(kind))
    assert A.is_symmetric
    assert A.T is A
    assert not A.is_psd  # they do not say so
    close(A.to_dense(), twin(cases.mlp(), cases.classes(11)))


def test_ours_and_theirs_have_the_same_coordinates():
    for ours, kind in [(es.Hessian, "HessianLinearOperator"), (es.GGN, "GGNLinearOperator")]:
        H, A = ours(cases.mlp(), LOSS, cases.classes(11)), es.as_operator(theirs(kind))
        close((H - A).to_dense(), torch.zeros(53, 53, dtype=torch.float64))


def test_jacobians_have_transposes():
    J, JT = (es.as_operator(theirs(kind)) for kind in ("JacobianLinearOperator", "TransposedJacobianLinearOperator"))
    assert (J.shape, JT.shape, J.is_symmetric) == ((33, 53), (53, 33), False)
    expected = cases.dense_jacobian(cases.mlp(), cases.classes(11)[0]).reshape(33, 53)
    for found in (J, JT.T):
        close(found.to_dense(), expected)
        close(found.T.to_dense(), expected.mT)
    close(es.svds(J, k=3).singular_values, torch.linalg.svdvals(expected)[:3])


@pytest.mark.parametrize("kind", ["KFACLinearOperator", "EKFACLinearOperator"])
def test_kronecker_factors_are_computed_within_our_products(kind):
    """They take derivatives in hooks at the first product, which is ours."""
    A = es.as_operator(kronecker_factored(kind))
    assert A.is_symmetric
    expected = dense(kronecker_factored(kind))
    close(A.to_dense(), expected)
    assert float(expected.norm()) > 1e-2
    space = es.ParameterSpace(cases.mlp())
    labels = space.labels()
    assert bool((A.to_dense()[labels[:, None] != labels] == 0).all())  # of each tensor apart


@pytest.mark.parametrize("kind", ["KFACLinearOperator", "EKFACLinearOperator"])
def test_inverses_of_kronecker_factors(kind):
    factored = kronecker_factored(kind)
    inverse = es.as_operator(curvlinops.KFACInverseLinearOperator(factored, damping=0.1, use_exact_damping=True))
    assert inverse.is_symmetric
    shifted = es.as_operator(factored) + 0.1 * es.Identity(53, dtype=torch.float64)
    close((inverse @ shifted).to_dense(), torch.eye(53, dtype=torch.float64))


def test_inverses_by_iteration():
    """Their tolerance is 1e-5 by default; what is symmetric only up to that is not declared so by itself."""
    expected = torch.linalg.inv(dense(damped()))
    inverse = es.as_operator(curvlinops.CGInverseLinearOperator(damped()))
    assert not inverse.is_symmetric
    close(inverse.to_dense(), expected, atol=1e-3)
    close(inverse.T.to_dense(), expected, atol=1e-3)


def test_sums_and_parts_keep_what_they_know():
    H, G = theirs("HessianLinearOperator"), theirs("GGNLinearOperator")
    A = es.as_operator(H + (-0.5) * G)
    assert A.is_symmetric
    close(A.to_dense(), dense(H) - dense(G) / 2)
    product = es.as_operator(H @ G)
    assert not product.is_symmetric
    close(product.T.to_dense(), dense(G) @ dense(H))
    part = es.as_operator(curvlinops.SubmatrixLinearOperator(H, [0, 5, 9], [1, 2]))
    close(part.to_dense(), dense(H)[[0, 5, 9]][:, [1, 2]])


def test_solvers_and_subspaces_on_theirs():
    A = es.as_operator(theirs("HessianLinearOperator"))
    eig = es.BlockLanczos(k=5).solve(A)
    values = torch.linalg.eigvalsh(cases.dense_hessian(cases.mlp(), LOSS, cases.classes(11)))
    close(eig.eigenvalues, values[values.abs().argsort(descending=True)[:5]], atol=1e-8)  # as converged, squared
    mask = es.MaskSubspace.top_k(es.magnitude(es.ParameterSpace(cases.mlp())), 5)
    close(A.restricted(mask).to_dense(), A.to_dense()[mask.indices][:, mask.indices])


def test_products_leave_no_graph():
    A = es.as_operator(theirs("GGNLinearOperator"))
    assert not (A @ torch.ones(53, dtype=torch.float64)).requires_grad
