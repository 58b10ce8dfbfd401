import errno
import os
import subprocess
import sys
import threading

import pytest

from meanfield.files import atomic_path, locked, sweep, write_bytes, write_text


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


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_full_disk_at_any_step_says_so_and_keeps_the_old_file(
    tmp_path, monkeypatch, step
):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "a.txt"
    write_text(target, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(
            OSError, match=r"disk is full: .*a\.txt.*unchanged"
        ) as caught:
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
        pytest.skip("a full disk needs a file system of its own; no mount command")
    if done.returncode:
        pytest.skip("a full disk needs a file system of its own; not root")
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


HOLD = """
import sys, time
from pathlib import Path
from meanfield.files import atomic_path, locked, scratch_folder
folder = Path(sys.argv[1])
with (
    locked(folder),
    scratch_folder(folder / "a.txt") as scratch,
    atomic_path(folder / "a.txt"),
):
    (scratch / "half").touch()
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_goes_and_what_another_writes_stays(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes)
    assert process.stdout.readline() == b"ready\n"
    (half,) = tmp_path.glob(".a.txt.*.part.txt")
    (scratch,) = tmp_path.glob(".a.txt.*.part")
    sweep(tmp_path)
    assert half.exists()
    assert (scratch / "half").exists()
    with pytest.raises(BlockingIOError, match="another process is writing to"):
        locked(tmp_path).__enter__()
    process.kill()
    process.communicate()
    earlier = tmp_path / ".a.txt.ab_c3d4e.txt"
    (others := tmp_path / ".b.txt.0123456789abcdef.part.txt").touch()
    earlier.touch()
    (mine := tmp_path / ".a.txt.notes.md").touch()
    (tmp_path / ".a.txt-ab_c3d4e" / "a.txt").mkdir(parents=True)
    (own := tmp_path / ".a.txt-my_notes").mkdir()
    write_text(tmp_path / "a.txt", "whole")
    assert not half.exists()
    assert not scratch.exists()
    assert not (tmp_path / ".a.txt-ab_c3d4e").exists()
    assert own.exists()
    assert not earlier.exists()
    assert others.exists()
    sweep(tmp_path)
    assert not others.exists()
    assert mine.exists()
    with locked(tmp_path):
        pass


def test_the_umask_is_never_set(tmp_path, monkeypatch):
    """Setting it to read it would be seen by every other thread."""

    def refuse(mask):
        raise AssertionError("the umask belongs to the whole process")

    monkeypatch.setattr(os, "umask", refuse)
    write_text(tmp_path / "a.txt", "mine")


def test_threads_can_write_one_file(tmp_path):
    def write(text):
        for _ in range(20):
            write_text(tmp_path / "a.txt", text)

    threads = [threading.Thread(target=write, args=(c * 500,)) for c in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.txt").read_text() in ("a" * 500, "b" * 500)
    assert names(tmp_path) == ["a.txt"]
