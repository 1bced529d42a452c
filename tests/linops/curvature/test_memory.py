"""The memory of products, as the operating system counts it: a process of its own for each case."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

MEBIBYTE = 2**20
# Where the counters of the process are read; others have no such thing as a peak that can be set back.
SWITCH = pathlib.Path("/proc/self/clear_refs")
PROBE = """
import json, sys
import torch
from torch import nn
import eigenspan as es

def resident(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

operator, columns, samples, options = json.loads(sys.argv[1])
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 10))
X, y = torch.randn(samples, 64), torch.randint(0, 10, (samples,))
build = getattr(es, operator)
for engine in ("linearised", "retained", "forward"):  # modules are loaded, kernels chosen
    small = build(model, nn.CrossEntropyLoss(), (X[:8], y[:8]), engine=engine)
    V = torch.randn(columns, small.shape[1]).mT
    small @ V
A = build(model, nn.CrossEntropyLoss(), (X, y), **options)
before = resident("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
for _ in range(2):
    A @ V
print(json.dumps([resident("VmHWM") - before, str(A.plan(columns))]))
"""

pytestmark = pytest.mark.skipif(not SWITCH.exists(), reason="needs /proc/self/clear_refs, to read peaks of memory")


def peak_of(operator, columns, samples, **options):
    """Bytes by which two products raise the resident size, set-up and result inside, and the plan."""
    given = json.dumps([operator, columns, samples, options])
    # Freed memory goes back to the system at once, in place of when the allocator sees fit.
    variables = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", PROBE, given]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    return json.loads(done.stdout.splitlines()[-1])


SAMPLES, BUDGET = 8_000, 16 * MEBIBYTE


def test_a_budget_holds_back_what_would_be_taken():
    """Tensors of 4 MB, a dozen of them in the graph of a Hessian."""
    peak, _ = peak_of("Hessian", 8, SAMPLES, engine="linearised", micro_batch_size=SAMPLES, chunk_size=1)
    assert peak > 2 * BUDGET
    peak, plan = peak_of("Hessian", 8, SAMPLES, memory_budget=BUDGET)
    assert peak <= BUDGET, plan


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "engine"),
    [
        *(("Hessian", engine) for engine in ("linearised", "retained", "forward")),
        *(("GGN", None), ("EmpiricalFisher", None)),
    ],
)
def test_no_plan_takes_more_than_its_budget(operator, engine):
    peak, plan = peak_of(operator, 8, SAMPLES, memory_budget=BUDGET, engine=engine)
    assert peak <= BUDGET, plan


@pytest.mark.slow
@pytest.mark.parametrize("budget", [40, 80])
def test_a_budget_that_holds_programs_keeps_them(budget):
    peak, plan = peak_of("GGN", 32, SAMPLES, memory_budget=budget * MEBIBYTE)
    assert peak <= budget * MEBIBYTE
    assert plan.endswith("kept"), plan
