"""Locks: one holder at a time, and a way on when it dies."""

import os
import socket
import subprocess
import sys
import time

import pytest

from eigenspan.linops.locks import LockFile

HOST = socket.gethostname()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "work.claim"


def left_behind(path, owner, age):
    path.write_text(owner)
    os.utime(path, (time.time() - age,) * 2)


def test_one_holds_it_at_a_time(path):
    first, second = LockFile(path, 60), LockFile(path, 60)
    with first:
        assert first.acquire()
        assert not second.acquire()
        assert second.holder() == f"{os.getpid()} {HOST}"
    assert not list(path.parent.iterdir())
    assert second.acquire()
    second.release()


def test_a_holder_gives_signs_of_life(path):
    lock = LockFile(path, 0.4)
    assert lock.acquire()
    first = path.stat().st_mtime_ns
    time.sleep(1.2)  # three times as long as it would take to lapse
    assert path.stat().st_mtime_ns > first
    assert not LockFile(path, 0.4).acquire()
    lock.release()


@pytest.mark.parametrize("owner", ["1 elsewhere", f"{os.getppid()} {HOST}", ""])
def test_without_a_sign_of_life_it_lapses(path, owner):
    left_behind(path, owner, age=50)
    assert not LockFile(path).acquire()  # one that does not lapse
    assert not LockFile(path, 100).acquire()
    assert LockFile(path, 10).is_stale()
    lock = LockFile(path, 10)
    assert lock.acquire()
    assert lock.holder() == f"{os.getpid()} {HOST}"
    lock.release()


@pytest.mark.skipif(os.name != "posix", reason="elsewhere no process is known to be gone")
def test_of_a_process_that_has_ended_here_it_is_free_at_once(path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    left_behind(path, f"{process.pid} {HOST}", age=0)
    lock = LockFile(path, 1000)
    assert lock.acquire()
    lock.release()


def test_of_two_that_find_it_stale_one_takes_it_over(path, monkeypatch):
    """The second does so while the first looks; then the file stays at its path, where no third can make its own."""
    left_behind(path, "1 elsewhere", age=50)
    first, second = LockFile(path, 10), LockFile(path, 10)
    has_lapsed = LockFile._has_lapsed

    def slowly(lock):
        found = has_lapsed(lock)
        if lock is first and second.holder() == "1 elsewhere":
            assert second.acquire()
            for name in ("rename", "replace", "unlink", "remove"):
                monkeypatch.setattr(os, name, lambda *_: pytest.fail("a lock that is held left its path"))
        return found

    monkeypatch.setattr(LockFile, "_has_lapsed", slowly)
    assert not first.acquire()
    monkeypatch.undo()
    assert second.holder() == f"{os.getpid()} {HOST}"
    second.release()
    assert not list(path.parent.iterdir())


def test_what_another_took_over_is_neither_touched_nor_removed(path):
    lock = LockFile(path, 0.2)
    assert lock.acquire()
    left_behind(path, "1 elsewhere", age=50)
    before = path.stat().st_mtime_ns
    time.sleep(0.2)
    lock.release()
    assert path.read_text() == "1 elsewhere"
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("lapse", [0, -1.0, float("nan")])
def test_lapses_that_are_no_time(path, lapse):
    with pytest.raises(ValueError, match="lapse is a positive number of seconds"):
        LockFile(path, lapse)
