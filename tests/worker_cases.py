"""What worker processes do in tests: small sketches of slow operators. A child process imports it by name."""

import time

import torch

from eigenspan.linops import Dense, Function, Hessian, Structure
from eigenspan.solvers import SketchedEigh, measure_columns

N, COLUMNS, BLOCK = 60, 40, 4


def solver(**options):
    return SketchedEigh(**{"k": 6, "outer": 20, "inner": COLUMNS, "block_size": BLOCK, **options})


def dense(seed=0):
    matrix = torch.randn(N, N, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Dense((matrix + matrix.mT) / 2, Structure.SYMMETRIC)


def slow(seconds, seed=0):
    """The matrix of `dense`, whose products take a time."""
    A = dense(seed)

    def product(X):
        time.sleep(seconds)
        return A.matrix @ X

    return Function(product, A.shape, A.dtype, structure=A.structure)


def hessian():
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    data = torch.randn(20, 8), torch.arange(20) % 3
    return Hessian(model, torch.nn.CrossEntropyLoss(), data, engine="linearised", micro_batch_size=20, chunk_size=BLOCK)


def work(folder, seconds, lapse=120.0):
    """A worker on the slow operator, known by the name that all tests give it."""
    torch.set_num_threads(1)
    measure_columns(solver(), slow(seconds), folder, lapse=lapse)


def work_on_hessian(folder):
    torch.set_num_threads(1)
    measure_columns(solver(), hessian(), folder)


def problem():
    """What the command line is told to measure."""
    return solver(), dense()
