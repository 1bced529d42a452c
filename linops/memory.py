"""How much memory is free."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

from .basic import require_count

SHARE_OF_FREE_MEMORY = 0.25
"""What is taken of it where the user does not say."""


def allowance(memory_budget: int | None, device: torch.device) -> int:
    """Bytes that the user allows, or a quarter of what is free.

    Raises:
        ValueError: a budget below one.
    """
    if memory_budget is None:
        return int(SHARE_OF_FREE_MEMORY * free_memory(device))
    require_count("memory_budget is None or", memory_budget)
    return memory_budget


def free_memory(device: torch.device) -> int:
    """Bytes that could be allocated on the device now; 4 GiB where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for entry in _meminfo():
        if entry.startswith("MemAvailable:"):
            return int(entry.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 4 * 2**30


def _meminfo() -> Iterator[str]:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            yield from lines
    except OSError:  # not on Linux
        return
