"""What each rank of a job does in tests: it solves the problems in several ways, and returns what it found."""

import os
import time
from unittest import mock

import torch
from torch import nn
from tqdm import tqdm

import eigenspan as es
from eigenspan.linops.distributed import ColumnParallel, DataParallel, RowSharded, share_of, whole
from eigenspan.linops.sharding import agreed
from eigenspan.solvers.tridiagonalisation import KrylovSpace
from eigenspan.solvers.watched import Watched

SYMMETRIC = es.Structure.SYMMETRIC
SOLVERS = {
    "lanczos": es.BlockLanczos(k=6, block_size=3, tol=1e-10),
    "restarted": es.BlockLanczos(k=6, block_size=3, tol=1e-10, max_basis=30),
    "sketched": es.SketchedEigh(outer=20, k=6, block_size=7),
    "gaussian": es.SketchedEigh(outer=20, k=6, test_matrix="gaussian", basis="first"),
    "two-pass": es.SketchedEigh(outer=20, k=6, two_pass=True),
    "dense": es.DenseEigh(k=6),
    "iteration": es.SubspaceIteration(k=6, tol=1e-4),
    "lanczos on disk": es.BlockLanczos(k=6, block_size=3, tol=1e-10, storage="disk"),
    "two-pass on disk": es.SketchedEigh(outer=20, k=6, two_pass=True, storage="disk"),
    "iteration on disk": es.SubspaceIteration(k=6, tol=1e-4, storage="disk"),
    "smallest": es.SubspaceIteration(k=3, which="SA", passes=4),
}
SVD_SOLVERS = [es.BlockGolubKahan(k=4, tol=1e-10), es.SketchedSVD(outer=19, k=4)]


def rectangle():
    """A matrix of more rows than columns, which two ranks do not divide."""
    return torch.randn(37, 23, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def network():
    """A small classifier in float64 of 127 parameters, a number that neither two ranks divide nor four."""
    torch.manual_seed(1)
    first = [nn.Linear(7, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh()]
    return nn.Sequential(*first, nn.Linear(5, 2), nn.Tanh(), nn.Linear(2, 3, bias=False)).double()


def batches():
    """Uneven batches whose classes weigh differently, so that no average of averages is right."""
    generator = torch.Generator().manual_seed(2)
    sizes = (13, 4, 9, 1, 6)
    return [
        (
            torch.randn(size, 7, generator=generator, dtype=torch.float64),
            torch.randint(0, 3, (size,), generator=generator),
        )
        for size in sizes
    ]


def hessian(data):
    """The Hessian of the network over data, by a plan that takes no trial."""
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64))
    return es.Hessian(network(), loss, data, engine="retained", micro_batch_size=16, chunk_size=1)


def one_batch():
    """All samples in one batch."""
    return tuple(torch.cat(parts) for parts in zip(*batches(), strict=True))


def solved(A, names=SOLVERS):
    """What the solvers find of A, plain."""
    found = {}
    for name in names:
        eig = SOLVERS[name].solve(A)
        found[name] = {
            "values": eig.eigenvalues,
            "vectors": whole(eig.eigenvectors),
            "residuals": eig.residual_norms,
            "products": eig.report.products,
        }
    return found


def dense(H):
    """The matrix of H, whose products take no time."""
    return es.Dense(H.to_dense(), SYMMETRIC)


def comparison(mesh):
    """Row-, column- and data-sharded solves, products and losses."""
    H = hessian(batches())
    A = dense(H)
    data = DataParallel(hessian(share_of(batches(), mesh)), mesh)
    samples = DataParallel(hessian(share_of(one_batch(), mesh)), mesh)
    rows, columns = RowSharded(H, mesh), ColumnParallel(H, mesh)
    X = torch.eye(len(A.matrix), dtype=torch.float64)[:, :5]
    started = es.BlockLanczos(k=6, tol=1e-10).solve(RowSharded(A, mesh), start=A.matrix[:, :4])
    return {
        "rows": solved(RowSharded(A, mesh)),
        "columns": solved(ColumnParallel(A, mesh)),
        "data": solved(data, ["lanczos", "sketched", "iteration"]),
        "loss": data.loss(),
        "gradient": data.gradient(),
        "dense": [B.to_dense() for B in (rows, columns, data, samples)],
        "block": whole(rows @ X),
        "vector": whole(rows @ X[:, 0]),
        "started": started.eigenvalues,
        "singular": [solver.solve(RowSharded(es.Dense(rectangle()), mesh)).singular_values for solver in SVD_SOLVERS],
        "rows of pairs": [spread_pairs(RowSharded(A, mesh), storage) for storage in (None, "disk")],
        "refused": refusals(mesh),
        "fingerprints": fingerprints(mesh),
    }


INDICES = torch.tensor([126, 0, 63, 64, 0])


def spread_pairs(A, storage):
    """What a mask asks of eigenvectors whose rows are spread, and what is refused of them."""
    solver = es.BlockLanczos(k=3, block_size=3, tol=1e-10, storage=storage)
    eig = solver.solve(A)
    scores = torch.arange(127.0).sin()
    mask = es.MaskSubspace.top_k(scores, 20).to(dtype=torch.float64)
    subspace = eig.subspace
    found = {
        "rows": eig.rows(INDICES),
        "overlap": es.overlap(mask, subspace),
        "curve": es.overlap_curve(scores, subspace),
        "formed": getattr(eig._eigenvectors, "_formed", "at once") is not None,
        "vectors": whole(eig.eigenvectors),
    }
    refused = [
        lambda: es.chance(mask, subspace),
        lambda: es.overlap(subspace, subspace),
        lambda: eig.save("no/such/folder/x.npz"),
        lambda: es.Arpack(k=2).solve(A),
        lambda: es.trace(A),
    ]
    return found | {"refused": [message_of(call) for call in refused]}


def curvatures(data):
    """Operators whose fingerprint is of all data: mean and summed losses, and draws."""
    mean, total = nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum")
    return [
        hessian(data),
        es.GGN(network(), total, data, engine="retained"),
        es.EmpiricalFisher(network(), mean, data, engine="retained"),
        es.MonteCarloFisher(network(), mean, data, engine="retained", seed=3),
    ]


def fingerprints(mesh):
    """Those of operators of which each rank has a part."""
    shared = [DataParallel(H, mesh) for H in curvatures(share_of(batches(), mesh))]
    share = hessian(share_of(one_batch(), mesh))
    half = dense(hessian(batches())).matrix / mesh.size()
    wrapped = [RowSharded(shared[0], mesh), ColumnParallel(shared[0], mesh), 2 * shared[0], shared[0].T @ shared[0]]
    functions = es.Function(lambda X: half @ X, half.shape, half.dtype, structure=SYMMETRIC)
    return [A.fingerprint() for A in (*shared, DataParallel(share, mesh), *wrapped, DataParallel(functions, mesh))]


def refusals(mesh):
    """What each rank says of ranks that do not go together."""
    rank = mesh.get_local_rank()
    own = es.Dense(torch.eye(4 + rank, dtype=torch.float64))
    moved = network()
    with torch.no_grad():
        moved[0].bias[0] += rank
    elsewhere = es.Hessian(moved, nn.CrossEntropyLoss(), one_batch(), engine="retained")
    total = es.Hessian(network(), nn.CrossEntropyLoss(reduction="sum"), one_batch(), engine="retained")
    nothing = es.Function(lambda X: X * float("nan") if rank == 1 else X, (9, 9), torch.float64, structure=SYMMETRIC)
    attempts = [
        lambda: RowSharded(own, mesh),
        lambda: DataParallel(elsewhere, mesh),
        lambda: DataParallel(total if rank == 1 else hessian(one_batch()), mesh),
        lambda: share_of([one_batch()], mesh),
        lambda: agreed(torch.ones(2) * rank, mesh),
        lambda: es.BlockLanczos(k=2, check_symmetry=False).solve(RowSharded(nothing, mesh)),
    ]
    return [message_of(attempt) for attempt in attempts]


def message_of(attempt):
    """What it raises; empty if nothing."""
    try:
        attempt()
    except (OSError, RuntimeError, RuntimeWarning, TypeError, ValueError) as error:
        return str(error)
    return ""


def uneven(mesh):
    """Ranks of which one has less memory and takes longer choose alike, and multiply as often."""
    rank = mesh.get_local_rank()
    A = RowSharded(es.Diagonal(torch.linspace(1, 2, 400, dtype=torch.float64) ** 9), mesh)
    late = (0.2, 0.01)[rank]
    with (
        mock.patch("eigenspan.linops.memory.free_memory", return_value=4 * 400 * 8 * (80, 60)[rank]),
        mock.patch("eigenspan.solvers.planning._timed", lambda function, X, _: late * (function(X) is not None)),
    ):
        solved = [es.eigsh(A, 5), es.Auto(k=5).solve(A)]
        svd = es.svds(A, 2, max_products=4000)
        plan = es.Auto(k=5).plan(A)
    B = ColumnParallel(es.Dense(rectangle()), mesh)
    rows = B.shape[1] * 8
    sizes = [found.report.solver.max_basis for found in (solved[0], svd)] + [plan.solver.max_basis]
    values = [*(found.eigenvalues for found in solved), svd.singular_values]
    return {"sizes": sizes, "values": values, "gram": B.row_gram((10, 40)[rank] * rows)}


def quarters(mesh):
    """How many numbers this rank's basis holds, and what a mesh of data and rows gives."""
    n = 4096
    decay = torch.linspace(1, 0, n, dtype=torch.float64) ** 3
    A = RowSharded(es.Diagonal(decay), mesh)
    space = KrylovSpace(Watched(A, tqdm(disable=True)), 8, 0, 1e-9)
    space.extend(8)
    for _ in range(6):
        space.multiply(8)
    held = sum(store.untyped_storage().nbytes() for store in space.basis._stores)
    capacity = sum(space.basis._widths)
    few = RowSharded(es.Diagonal(torch.tensor([1.0, 3.0, -2.0], dtype=torch.float64)), mesh)  # of one rank nothing
    return {
        "bytes": held,
        "whole": 8 * n * capacity,
        "rows": solved(RowSharded(dense(hessian(batches())), mesh)),
        "few": [es.BlockLanczos(k=2, storage=kind).solve(few).eigenvalues for kind in ("device", "disk")],
    }


def both(mesh):
    """Data shared out along one axis of a mesh, rows along the other."""
    A = RowSharded(DataParallel(hessian(share_of(batches(), mesh["data"])), mesh["data"]), mesh["rows"])
    return solved(A, ["lanczos", "sketched"])


def dying(mesh):
    """The last rank dies in the middle of a solve."""
    A = torch.diag(torch.linspace(1, 2, 300, dtype=torch.float64))

    def product(X):
        product.calls += 1
        if product.calls == 4 and mesh.get_local_rank() == mesh.size() - 1:
            os._exit(17)
        return A @ X

    product.calls = 0
    es.BlockLanczos(k=6, block_size=2).solve(
        RowSharded(es.Function(product, (300, 300), A.dtype, structure=SYMMETRIC), mesh)
    )


def total(mesh):
    """The sum of the numbers of the ranks, from one on."""
    number = torch.tensor(1.0 + mesh.get_rank())
    torch.distributed.all_reduce(number)
    return {"total": number}


def late(mesh):
    """The last rank never comes to the product."""
    if mesh.get_local_rank() == mesh.size() - 1:
        time.sleep(2 * float(os.environ["RANK_TIMEOUT"]))
        os._exit(3)
    RowSharded(es.Identity(9, torch.float64), mesh).to_dense()
