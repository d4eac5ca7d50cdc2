"""Results of a command: complete under their names, and never over what it did not write."""

import os
import signal
import subprocess
import sys

import pytest

from edgeseg_runtime.outputs import OutputFolder
from edgeseg_runtime.workshop import clear, settle_leftovers, workshop


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_appear_when_they_are_complete(tmp_path):
    with OutputFolder(tmp_path / "new" / "out") as outputs:
        partial = outputs.begin("a.json")
        partial.write_text("[", encoding="utf-8")
        assert not (outputs.folder / "a.json").exists()
        partial.write_text("[]", encoding="utf-8")
        assert outputs.finish(partial) == outputs.folder / "a.json"
        outputs.write("b.txt", b"b")
        outputs.begin("never.finished").touch()
    assert names_in(tmp_path / "new" / "out") == ["a.json", "b.txt"]


def test_what_is_there_is_told_before_the_work_and_left_alone(tmp_path):
    for name in "abcde":
        (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"^a, b, c and 2 more in .* would be replaced; give"):
        OutputFolder(tmp_path, "abcdef")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(FileExistsError, match="dangling in"):
        OutputFolder(tmp_path, ["dangling"])
    with OutputFolder(tmp_path) as outputs:
        with pytest.raises(FileExistsError, match="--overwrite"):
            outputs.write("a", b"of the command")
        outputs.write("f", b"1")
        outputs.write("f", b"its own may change")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "mine"
    assert (tmp_path / "f").read_bytes() == b"its own may change"


def test_overwrite_replaces_files_but_no_source(tmp_path):
    (tmp_path / "old").write_text("old", encoding="utf-8")
    (tmp_path / "photo.jpg").write_text("photo", encoding="utf-8")
    (tmp_path / "link.jpg").hardlink_to(tmp_path / "photo.jpg")
    with OutputFolder(tmp_path, ["old"], overwrite=True) as outputs:
        outputs.write("old", b"new")
    assert (tmp_path / "old").read_bytes() == b"new"
    for name in ("photo.jpg", "link.jpg"):
        with pytest.raises(FileExistsError, match=f"{name} in .* but that is what is read; give"):
            OutputFolder(tmp_path, [name], overwrite=True, sources=[tmp_path / "photo.jpg"])


def test_a_file_that_appears_in_the_meantime_is_left_alone(tmp_path, monkeypatch):
    with OutputFolder(tmp_path) as outputs:
        monkeypatch.setattr(outputs, "_check", lambda names: None)
        (tmp_path / "a").write_text("mine", encoding="utf-8")
        with pytest.raises(FileExistsError, match="a has appeared in the meantime"):
            outputs.write("a", b"of the command")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "mine"
    assert names_in(tmp_path) == ["a"]


def test_a_file_in_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(FileExistsError, match="out is not a folder; give another one with --out"):
        OutputFolder(tmp_path / "out")


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path):
    code = f"""
import resource, signal
from edgeseg_runtime.outputs import OutputFolder

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with OutputFolder({str(tmp_path)!r}) as outputs:
        outputs.write("small", bytes(1000))
        outputs.write("large", bytes(2000))
except OSError as error:
    print(error.strerror, error.filename)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == f"File too large {tmp_path / 'large'}\n", done.stderr
    assert names_in(tmp_path) == ["small"]


def test_what_a_killed_command_left_goes_with_the_next_one(tmp_path):
    code = f"""
import os, signal
from edgeseg_runtime.outputs import OutputFolder

with OutputFolder({str(tmp_path)!r}) as outputs:
    outputs.write("done", b"done")
    outputs.begin("half").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(names_in(tmp_path)) == 2
    with OutputFolder(tmp_path):
        pass
    assert names_in(tmp_path) == ["done"]


def test_two_commands_in_one_folder_leave_each_other_alone(tmp_path):
    with OutputFolder(tmp_path) as first:
        partial = first.begin("a")
        partial.write_text("a", encoding="utf-8")
        for path in (partial.parent, partial):
            os.utime(path, (0, 0))
        with OutputFolder(tmp_path) as second:
            second.write("b", b"b")
        first.finish(partial)
    assert names_in(tmp_path) == ["a", "b"]


def test_a_hidden_folder_without_a_lock_is_removed_only_if_it_is_empty(tmp_path):
    empty, full = tmp_path / ".edgeseg.00000000.partial", tmp_path / ".edgeseg.00000001.partial"
    for folder in (empty, full):
        folder.mkdir()
    (full / "mine").touch()
    settle_leftovers(tmp_path / "edgeseg", clear)
    assert names_in(tmp_path) == [full.name]
    with workshop(tmp_path / "edgeseg", clear) as work:
        (work / "folder").mkdir()
        (work / "link").symlink_to(full)
    assert names_in(tmp_path) == [full.name]
    assert names_in(full) == ["mine"]
