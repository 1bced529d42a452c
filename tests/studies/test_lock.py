"""The folder of a study: one process at a time."""

import os
import socket
import subprocess
import sys

import pytest

from eigenspan.linops import locks
from eigenspan.studies.lock import LOCK, locked

HOST = socket.gethostname()


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_process_is_told_of_the_first(tmp_path):
    code = f"""if True:
        import sys
        from pathlib import Path
        from eigenspan.studies.lock import locked
        for line in sys.stdin:
            try:
                with locked(Path({str(tmp_path)!r})):
                    print("held", flush=True)
            except RuntimeError as error:
                print(error, flush=True)
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as second:

        def attempt():
            second.stdin.write("\n")
            return second.stdout.readline()

        with locked(tmp_path):
            assert f"another run is using this folder (process {os.getpid()} on {HOST})" in attempt()
            assert (tmp_path / LOCK).exists()
        assert attempt() == "held\n"
        second.stdin.close()
        assert second.wait() == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_it_is_released_after_an_error(tmp_path, error):
    def fail():
        with locked(tmp_path):
            raise error

    with pytest.raises(error):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="elsewhere no process is known to be gone")
def test_what_a_dead_process_left_is_taken_over(tmp_path, dead):
    (tmp_path / LOCK).write_text(f"{dead} {HOST}")
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text() == f"{os.getpid()} {HOST}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("owner", ["{dead} elsewhere", "{alive} {host}", "", "no lock", "9" * 30 + " {host}"])
def test_what_may_be_alive_is_left_alone(tmp_path, dead, owner):
    owner = owner.format(dead=dead, alive=os.getppid(), host=HOST)
    (tmp_path / LOCK).write_text(owner)
    with pytest.raises(RuntimeError, match=rf"another run .* if it is gone, remove .*{LOCK}"), locked(tmp_path):
        pass
    assert (tmp_path / LOCK).read_text() == owner


@pytest.mark.skipif(os.name != "posix", reason="elsewhere no process is known to be gone")
def test_of_two_that_take_over_one_succeeds(tmp_path, dead, monkeypatch):
    """The other one has removed the dead lock and made its own between our look and our removal."""
    (tmp_path / LOCK).write_text(f"{dead} {HOST}")
    is_dead, winner = locks._is_dead, f"{os.getppid()} {HOST}"

    def slowly(owner):
        monkeypatch.setattr(locks, "_is_dead", is_dead)
        found = is_dead(owner)
        (tmp_path / LOCK).unlink()
        (tmp_path / LOCK).write_text(winner)
        return found

    monkeypatch.setattr(locks, "_is_dead", slowly)
    with pytest.raises(RuntimeError, match=f"process {os.getppid()} on"), locked(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    assert (tmp_path / LOCK).read_text() == winner
