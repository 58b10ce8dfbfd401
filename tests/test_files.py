import errno
import os
import subprocess
import tempfile

import pytest

from meanfield.files import atomic_path, write_bytes, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_written_file_has_its_content_and_leaves_nothing_beside_it(tmp_path):
    write_text(tmp_path / "a.txt", "π ≠ 3")
    write_bytes(tmp_path / "b.bin", b"\x00\xff")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "π ≠ 3"
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\xff"
    assert names(tmp_path) == ["a.txt", "b.bin"]


def test_missing_folders_are_made(tmp_path):
    write_text(tmp_path / "x" / "y" / "a.txt", "deep")
    assert (tmp_path / "x" / "y" / "a.txt").read_text() == "deep"


def test_a_file_is_replaced_whole(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "a long first version")
    write_text(target, "short")
    assert target.read_text() == "short"


def test_the_umask_decides_who_may_read_the_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "mine")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def fail(path):
        path.write_text("half")
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"), atomic_path(target) as path:
        fail(path)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with atomic_path(target) as path:
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize("step", ["mkstemp", "fsync", "replace"])
def test_a_full_disk_at_any_step_says_so_and_keeps_the_old_file(
    tmp_path, monkeypatch, step
):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "a.txt"
    write_text(target, "old")
    monkeypatch.setattr(tempfile if step == "mkstemp" else os, step, full)
    with pytest.raises(OSError, match=r"disk is full: .*a\.txt.*untouched") as caught:
        write_text(target, "new")
    assert caught.value.errno == errno.ENOSPC
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_another_error_of_the_system_passes_unchanged(tmp_path, monkeypatch):
    def broken(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        write_text(tmp_path / "a.txt", "new")
    assert names(tmp_path) == []


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 KiB; making one needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_while_writing_keeps_the_old_file(tiny_disk):
    target = tiny_disk / "weights.bin"
    write_bytes(target, b"o" * 20_000)
    with pytest.raises(OSError, match="disk is full"):
        write_bytes(target, b"n" * 100_000)
    assert target.read_bytes() == b"o" * 20_000
    assert names(tiny_disk) == ["weights.bin"]
    write_bytes(target, b"n" * 20_000)
    assert target.read_bytes() == b"n" * 20_000
