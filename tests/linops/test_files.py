"""Files that appear whole or not at all, whoever else writes them."""

import os
import stat

import pytest

from eigenspan.linops.files import read_json, require_writable, write_json, written_whole


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with written_whole(path) as slow:
        slow.write_text("half")
        with written_whole(path) as fast:
            fast.write_text("whole")
        assert path.read_text() == "whole"
        assert slow.read_text() == "half"
        assert slow.name.startswith("file")
        assert slow.suffix == fast.suffix == ".partial"
    assert path.read_text() == "half"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def fail():
        with written_whole(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_permissions_are_those_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        (tmp_path / "plain").touch()
        with written_whole(tmp_path / "whole"):
            pass
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    plain, whole = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "whole"))
    assert whole == plain == 0o666 & ~mask


@pytest.mark.skipif(os.name != "posix", reason="elsewhere folders are not opened")
def test_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    import posix  # whose fsync no other test waits for

    path, events, replace = tmp_path / "file", [], os.replace

    def synced(handle):
        status = os.fstat(handle)
        events.append("folder" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes")
        posix.fsync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *paths: events.append("named") or replace(*paths))
    with written_whole(path) as partial:
        partial.write_text("whole")
    assert events == ["5 bytes", "named", "folder"]


@pytest.mark.skipif(os.name != "posix", reason="pipes have no names elsewhere")
@pytest.mark.parametrize("make", [os.mkdir, getattr(os, "mkfifo", None)])
@pytest.mark.parametrize("write", [require_writable, lambda path: write_json({}, path)])
def test_what_is_no_file_is_not_replaced(tmp_path, make, write):
    """Such as /dev/null, which every process of the machine needs."""
    make(tmp_path / "name")
    before = os.lstat(tmp_path / "name")
    with pytest.raises(OSError, match=r"name is a (folder: name a file|device or the like, and no file: choose)"):
        write(tmp_path / "name")
    assert os.lstat(tmp_path / "name") == before
    assert os.listdir(tmp_path) == ["name"]


@pytest.mark.parametrize("write", [require_writable, lambda path: write_json({}, path)])
def test_a_folder_that_is_missing_is_named(tmp_path, write):
    with pytest.raises(FileNotFoundError, match=r"missing is no folder: make it, or choose another file$"):
        write(tmp_path / "missing" / "name")
    assert not os.listdir(tmp_path)


def test_json_is_strict_and_replaced(tmp_path):
    path = tmp_path / "data.json"
    for value in (float("nan"), 2.5):
        write_json({"value": value, "list": (1, float("inf"))}, path)
        assert read_json(path) == {"value": None if value != value else value, "list": [1, None]}
    assert list(tmp_path.iterdir()) == [path]
