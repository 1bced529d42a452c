"""Folders that cannot be written and disks that are full, for tests."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import tempfile
from pathlib import Path


@contextlib.contextmanager
def unprivileged():
    """As a user whom permissions bind."""
    privileged = os.geteuid() == 0
    if privileged:
        os.seteuid(65534)
    try:
        yield
    finally:
        if privileged:
            os.seteuid(0)


@contextlib.contextmanager
def shared_folder():
    """A folder that other users can read."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextlib.contextmanager
def small_files(size):
    """The system refuses to write more than so many bytes to a file, as it does when a disk is full."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
