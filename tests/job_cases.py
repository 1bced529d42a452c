"""Jobs of several processes on this machine, for tests. Its ranks import it by name."""

import multiprocessing
import multiprocessing.forkserver
import os
import sys
import warnings
from unittest import mock

import torch

from eigenspan.linops.distributed import job

PRELOADED = ["distributed_cases", "shared_log_cases", "study_cases"]
PRELOADED += ["torch._dynamo", "torch.distributed.tensor"]  # PyTorch's own first use of a mesh takes a second to import


def forkserver():
    """Processes by its context begin with everything imported: it is one of all tests, which import it once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):  # else it skips what it does not find
        multiprocessing.forkserver.ensure_running()
    return context


def ranks(case, count, folder, timeout=120, jobs=1, **axes):
    """The exit codes and outputs of a job's processes, which are ended after ten minutes.

    Each calls ``case``, a function of the mesh, in so many jobs one after the other, and writes to ``folder`` what that
    returns. The store by which ranks find one another outlives the jobs, as that of torchrun does.
    """
    store = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    shared = {"WORLD_SIZE": count, "MASTER_ADDR": "localhost", "MASTER_PORT": store.port, "RANK_TIMEOUT": timeout}
    shared["TORCHELASTIC_USE_AGENT_STORE"] = True
    context = forkserver()
    processes = []
    for rank in range(count):
        own = {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
        processes.append(context.Process(target=main, args=(case, folder, own, jobs, axes)))
        processes[-1].start()
    for process in processes:
        process.join(600)
        process.kill()  # of one that has ended nothing is left to kill
    return [process.exitcode for process in processes], [(folder / f"{rank}.log").read_text() for rank in range(count)]


def found(case, count, folder, **axes):
    """What each rank of a job that ended well has found."""
    codes, outputs = ranks(case, count, folder, **axes)
    assert codes == [0] * count, "\n".join(outputs)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]


def main(case, folder, environment, jobs, axes):
    """One rank, whose output and errors go to a file."""
    os.environ |= environment
    with open(folder / f"{os.environ['RANK']}.log", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    for _ in range(jobs):
        with mock.patch.object(os, "fsync"), job(timeout=float(os.environ["RANK_TIMEOUT"]), **axes) as mesh:
            torch.save(case(mesh), folder / f"{torch.distributed.get_rank()}.pt")
