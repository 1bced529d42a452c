"""The memory of products, as the operating system counts it: each in a process of its own, forked from a common one."""

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
import json, os, sys
import torch
from torch import nn
import eigenspan as es

def resident(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

def measure(operator, columns, samples, options):
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
    return resident("VmHWM") - before, str(A.plan(columns))

torch.set_num_threads(1)  # others would not come through a fork
for case in json.loads(sys.argv[1]):
    if os.fork():
        assert os.wait()[1] == 0
    else:
        print(json.dumps(measure(*case)), flush=True)
        os._exit(0)
"""

pytestmark = pytest.mark.skipif(not SWITCH.exists(), reason="needs /proc/self/clear_refs, to read peaks of memory")


def peaks_of(*cases):
    """Of each (operator, columns, samples, options): bytes by which two products raise the resident size, and the plan.

    Set-up and result are inside.
    """
    # Freed memory goes back to the system at once, in place of when the allocator sees fit.
    variables = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", PROBE, json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    return [json.loads(line) for line in done.stdout.splitlines()]


SAMPLES, BUDGET = 8_000, 16 * MEBIBYTE


@pytest.mark.slow
def test_a_budget_holds_back_what_would_be_taken():
    """Tensors of 4 MB, a dozen of them in the graph of a Hessian."""
    free = {"engine": "linearised", "micro_batch_size": SAMPLES, "chunk_size": 1}
    (most, _), (least, plan) = peaks_of(
        ("Hessian", 1, SAMPLES, free), ("Hessian", 4, SAMPLES, {"memory_budget": BUDGET})
    )
    assert most > 2 * BUDGET
    assert least <= BUDGET, plan


@pytest.mark.slow
def test_no_plan_takes_more_than_its_budget():
    ways = [("Hessian", engine) for engine in ("linearised", "retained", "forward")]
    ways += [("GGN", None), ("EmpiricalFisher", None)]
    cases = [(operator, 8, SAMPLES, {"memory_budget": BUDGET, "engine": engine}) for operator, engine in ways]
    for way, (peak, plan) in zip(ways, peaks_of(*cases), strict=True):
        assert peak <= BUDGET, (way, plan)


@pytest.mark.slow
def test_a_budget_that_holds_programs_keeps_them():
    budgets = [40 * MEBIBYTE, 80 * MEBIBYTE]
    found = peaks_of(*(("GGN", 32, SAMPLES, {"memory_budget": budget}) for budget in budgets))
    for budget, (peak, plan) in zip(budgets, found, strict=True):
        assert peak <= budget
        assert plan.endswith("kept"), plan
