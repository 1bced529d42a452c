"""Jobs of torch.distributed: this process as one of their ranks."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from .basic import require_count

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_JOBS = itertools.count()  # of this process, which are as many on each rank
_MEETINGS: list[tuple[Any, int, int]] = []


@contextlib.contextmanager
def job(device: str = "cpu", timeout: float = 600.0, **sizes: int) -> Iterator[DeviceMesh]:
    """Within it this process is one rank of the job that torchrun started, under Slurm or not; the mesh of its ranks.

    A process may have several, one after the other.

    GPUs of a machine are dealt to its ranks, and talk by NCCL; CPUs talk by gloo. Where nothing started a job, it is
    one of a single rank.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        timeout: seconds after which a rank that waits for another gives up with an error. It must exceed the time by
            which ranks may be apart, which is that of loading data and of the first product, a trial.
        sizes: axes of the mesh and the ranks along each, such as ``data=2, rows=4``; by default one axis of all ranks.

    Raises:
        ValueError: sizes whose product is not the number of ranks; another device.
        RuntimeError: ranks that cannot be reached; tasks of Slurm that know nothing of each other; within it, a rank
            that has died or is late.

    Cost: the start of the ranks' communication.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    if device not in ("cpu", "cuda"):
        raise ValueError(f"the ranks of a job compute on 'cpu' or 'cuda', got {device!r}")
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if "RANK" not in os.environ and tasks > 1:
        raise RuntimeError(
            f"srun started {tasks} tasks, and each would do all the work by itself: let srun start torchrun, once on "
            "each machine, see docs/distributed.md"
        )
    ranks = int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1
    for name, size in sizes.items():
        require_count(f"the ranks along {name} are", size)
    if sizes and torch.Size(sizes.values()).numel() != ranks:
        raise ValueError(f"a mesh of {sizes} takes as many ranks as their product, and the job has {ranks}")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    patience = datetime.timedelta(seconds=timeout)
    alone = (dist.HashStore(), 0, 1)  # type: ignore[attr-defined]
    store, rank, ranks = _meeting(patience) if "RANK" in os.environ else alone
    store.set_timeout(patience)
    # Without a prefix of its own a job finds what the one before has left there.
    store = dist.PrefixStore(f"job {next(_JOBS)}", store)  # type: ignore[attr-defined]
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=patience, store=store, rank=rank, world_size=ranks)
    try:
        yield init_device_mesh(device, tuple(sizes.values()) or (ranks,), mesh_dim_names=tuple(sizes) or None)
    except BaseException:
        if device == "cpu":  # NCCL would wait for the others before it leaves
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _meeting(timeout: datetime.timedelta) -> tuple[Any, int, int]:
    """The store by which ranks find one another, the number of this rank, and how many there are.

    It stays open for later jobs of the process: were it opened anew, ranks could meet in the one that is being closed.
    """
    from torch.distributed.rendezvous import rendezvous

    if not _MEETINGS:
        _MEETINGS.append(next(rendezvous("env://", timeout=timeout)))
    return _MEETINGS[0]
