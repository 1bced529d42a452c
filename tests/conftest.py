"""What every test has: a device, seeded random numbers, few threads."""

import gc
import os
from unittest import mock

import pytest
import torch

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])

# The matrices of tests are small: more threads only wait for one another, as do those of workers side by side.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(torch.get_num_threads(), 2))


def pytest_collection_finish():
    """Modules and thousands of tests stay to the end: no search for garbage need go through them again."""
    gc.freeze()


@pytest.fixture(params=DEVICES)
def device(request):
    """Each device present on this machine, by name."""
    return request.param


@pytest.fixture(autouse=True, scope="session")
def _unsynchronised():
    """Files do not wait for the disk, which may be busy for seconds: tests end processes, and none cuts the power."""
    with mock.patch.object(os, "fsync"):
        yield


@pytest.fixture(autouse=True)
def _seeded():
    """The global generators start anew, so that a test does not depend on those before it.

    Not by `torch.manual_seed`, which notes a stack for each kind of device that was not used yet.
    """
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)
