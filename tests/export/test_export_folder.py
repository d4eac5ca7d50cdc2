"""The place of a bundle: replaced whole, in one step, and nothing else in it is ever lost."""

import contextlib
import dataclasses
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_bundle import write_bundle

from edgeseg_export import folder as replacing
from edgeseg_export.folder import check_folder, new_folder
from edgeseg_runtime.bundle.manifest import Manifest, read_artifact

KILL = Path(__file__).parents[1] / "helpers" / "kill_replacements.py"


@pytest.fixture
def bundle(tmp_path):
    """Return the folder of a bundle with files and folders of its user."""
    folder = tmp_path / "bundle"
    write_bundle(folder, b"old model")
    (folder / "notes.txt").write_text("years of work", encoding="utf-8")
    (folder / "engines").mkdir()
    (folder / "engines" / "mine.engine").write_bytes(b"built for hours")
    (folder / "private" / "empty").mkdir(parents=True)
    (folder / "private").chmod(0o700)
    (folder / "link").symlink_to("notes.txt")
    (folder / "link_to_folder").symlink_to("private")
    return folder


def model_of(folder):
    return read_artifact(folder, Manifest.load(folder).artifact("onnx"))


def replace(folder, content=b"new model", **others):
    with new_folder(folder, overwrite=True) as fresh:
        write_bundle(fresh, content)
        for name, text in others.items():
            path = fresh / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("mode", [(), ("two_steps",)], ids=["exchange", "two steps"])
def test_a_replacement_that_is_killed_at_any_step_loses_nothing(tmp_path, mode):
    done = subprocess.run(
        [sys.executable, KILL, tmp_path, *mode],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(KILL.parent)])},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30


@pytest.mark.parametrize("has_links", [True, False])
def test_only_what_the_old_bundle_lists_is_replaced(bundle, monkeypatch, has_links):
    if not has_links:

        def link(*_arguments, **_options):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", link)
    before = (bundle / "notes.txt").stat()
    replace(bundle)
    assert model_of(bundle) == b"new model"
    assert sorted(path.name for path in bundle.iterdir()) == [
        "engines", "link", "link_to_folder", "manifest.json", "model.onnx", "notes.txt", "private",
    ]  # fmt: skip
    after = (bundle / "notes.txt").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert (bundle / "engines" / "mine.engine").read_bytes() == b"built for hours"
    assert (bundle / "link").readlink() == Path("notes.txt")
    assert (bundle / "private").stat().st_mode & 0o777 == 0o700
    assert (bundle / "private" / "empty").is_dir()
    assert list(bundle.parent.iterdir()) == [bundle]


def test_files_of_the_new_bundle_do_not_replace_those_of_the_user(bundle):
    with pytest.raises(FileExistsError, match=r"notes\.txt is not listed by the bundle .* rename"):
        replace(bundle, **{"notes.txt": "of the exporter"})
    assert (bundle / "notes.txt").read_text(encoding="utf-8") == "years of work"
    assert model_of(bundle) == b"old model"
    assert list(bundle.parent.iterdir()) == [bundle]


@pytest.mark.parametrize("file", ["behind/thesis.txt", "private", "private/link/thesis.txt"])
def test_what_a_stranger_s_manifest_lists_is_not_its_own_for_that(bundle, tmp_path, file):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work", encoding="utf-8")
    (bundle / "behind").symlink_to(home)
    (bundle / "private" / "link").symlink_to(home)
    (bundle / "private" / "notes.txt").write_text("years of work", encoding="utf-8")
    manifest = Manifest.load(bundle)
    stranger = dataclasses.replace(manifest.artifact("onnx"), file=file)
    artifacts = {**manifest.artifacts, "more": stranger}
    dataclasses.replace(manifest, artifacts=artifacts).save(bundle)
    replace(bundle)
    assert model_of(bundle) == b"new model"
    for kept in (home / "thesis.txt", bundle / "private" / "notes.txt"):
        assert kept.read_text(encoding="utf-8") == "years of work"
    assert {*tmp_path.iterdir()} == {bundle, home}


def test_a_file_of_the_user_is_no_folder_of_engines(bundle):
    shutil.rmtree(bundle / "engines")
    (bundle / "engines").write_text("years of work", encoding="utf-8")
    with pytest.raises(FileExistsError, match="engines is not listed by the bundle"):
        replace(bundle, **{"engines__new.engine": "x"})
    assert (bundle / "engines").read_text(encoding="utf-8") == "years of work"


def test_an_engine_is_replaced_by_one_of_its_name(bundle):
    replace(bundle, **{"engines__mine.engine": "for the same key", "engines__new.engine": "other"})
    assert (bundle / "engines" / "mine.engine").read_text(encoding="utf-8") == "for the same key"
    assert (bundle / "engines" / "new.engine").exists()


def test_what_the_user_changes_while_the_bundles_change_places_is_kept(bundle, monkeypatch):
    exchange = replacing._exchange

    def save_first(one, other):
        (bundle / "notes.new").write_text("newest", encoding="utf-8")
        (bundle / "notes.new").replace(bundle / "notes.txt")
        (bundle / "late.txt").write_text("late", encoding="utf-8")
        exchange(one, other)

    monkeypatch.setattr(replacing, "_exchange", save_first)
    replace(bundle)
    found = {path.name: path.read_text(encoding="utf-8") for path in bundle.glob("*.txt*")}
    assert found == {
        "notes.txt": "years of work", "notes.txt.1": "newest", "late.txt": "late",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ['{"name": "my web app", "icons": []}', "", "\xff", '{"schema": "99.0"}'],
    ids=["web app", "empty", "latin-1", "newer"],
)
def test_a_folder_with_some_manifest_is_no_bundle(tmp_path, text):
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "manifest.json").write_text(text, encoding="latin-1")
    (folder / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(FileExistsError, match="holds something else than a bundle and is not"):
        replace(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "thesis.txt"]


def test_a_place_that_holds_something_needs_overwrite(bundle, tmp_path):
    with pytest.raises(FileExistsError, match="is not empty; give another folder, or --overwrite"):
        check_folder(bundle, overwrite=False)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(FileExistsError, match="file is not a folder; give another name"):
        check_folder(tmp_path / "file", overwrite=True)


def test_an_empty_or_missing_folder_is_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "a" / "b"):
        with new_folder(folder, overwrite=False) as fresh:
            write_bundle(fresh, b"model")
        assert model_of(folder) == b"model"


@pytest.mark.parametrize("target", ["bundle", "nowhere"])
def test_a_symbolic_link_is_refused(bundle, tmp_path, target):
    (tmp_path / "latest").symlink_to(target)
    with pytest.raises(FileExistsError, match=f"latest is a symbolic link to {target}; give the"):
        check_folder(tmp_path / "latest", overwrite=True)


def test_a_folder_behind_a_link_is_replaced_where_it_is(bundle, tmp_path):
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    replace(tmp_path / "elsewhere" / "bundle")
    assert model_of(bundle) == b"new model"


def test_the_working_directory_is_not_exchanged(bundle, monkeypatch):
    monkeypatch.chdir(bundle / "private")
    for name in ("..", bundle):
        with pytest.raises(FileExistsError, match="is the working directory or holds it"):
            check_folder(Path(name), overwrite=True)


def test_a_mount_point_is_not_exchanged():
    with pytest.raises(FileExistsError, match=r"/proc is a mount point .* such as /proc/bundle"):
        check_folder(Path("/proc"), overwrite=True)


@pytest.mark.parametrize("place", ["{bundle}", "{base}/new/deep/bundle"])
def test_a_parent_that_cannot_be_written_is_told_at_once(bundle, monkeypatch, place):
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != bundle.parent)
    folder = Path(place.format(bundle=bundle, base=bundle.parent))
    with pytest.raises(
        PermissionError, match=r"the folder cannot be written; give a place in"
    ) as e:
        check_folder(folder, overwrite=True)
    assert e.value.filename == str(bundle.parent)


def test_a_folder_in_the_bundle_that_cannot_be_written_is_told_before_anything_moves(
    bundle, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path).name != "private")
    with pytest.raises(PermissionError, match="cannot be replaced: this folder cannot be written"):
        replace(bundle)
    assert model_of(bundle) == b"old model"
    assert (bundle / "private" / "empty").is_dir()


def test_a_replacement_that_fails_leaves_the_old_bundle(bundle, monkeypatch):
    before = sorted(bundle.rglob("*"))

    def full(*_folders):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(replacing, "_exchange", full)
    with pytest.raises(OSError, match="No space left"):
        replace(bundle, **{"engines__new.engine": "x"})
    assert model_of(bundle) == b"old model"
    assert sorted(bundle.rglob("*")) == before
    assert list(bundle.parent.iterdir()) == [bundle]


def test_a_running_export_is_no_litter_whatever_the_clock_says(tmp_path):
    folder = tmp_path / "bundle"
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(new_folder(folder, overwrite=True))
        write_bundle(running, b"slow")
        for path in (running.parent, *running.parent.rglob("*")):
            os.utime(path, (0, 0))
        replace(folder, b"quick")
        assert model_of(running) == b"slow"
        assert model_of(folder) == b"quick"
    assert model_of(folder) == b"slow"
    assert list(tmp_path.iterdir()) == [folder]


def test_what_only_looks_like_litter_is_left_alone(tmp_path):
    mine = tmp_path / ".bundle.0123abcd.partial"
    others = [tmp_path / ".bundle.backup.partial", tmp_path / ".bundle2.0123abcd.partial"]
    for folder in (mine, *others):
        folder.mkdir()
    (mine / "thesis.txt").write_text("years of work", encoding="utf-8")
    (others[0] / "edgeseg.lock").write_bytes(b"")
    (others[0] / "thesis.txt").write_text("years of work", encoding="utf-8")
    link = tmp_path / ".bundle.4567abcd.partial"
    link.symlink_to(others[0])
    replace(tmp_path / "bundle")
    assert {*tmp_path.iterdir()} == {mine, *others, link, tmp_path / "bundle"}
    assert (mine / "thesis.txt").exists()
    assert (others[0] / "thesis.txt").exists()
