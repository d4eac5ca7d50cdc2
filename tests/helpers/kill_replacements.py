"""Kills the replacement of a bundle before each of its steps in turn, and checks what is left.

`python kill_replacements.py FOLDER [two_steps]`: with "two_steps" as on a file system that cannot
let two folders change places. Prints the number of steps; a violation is an AssertionError.
"""

import errno
import os
import signal
import sys
from pathlib import Path

from tiny_bundle import write_bundle

from edgeseg_export import folder as replacing
from edgeseg_runtime.bundle.manifest import Manifest, read_artifact
from edgeseg_runtime.errors import BundleError

STEPS = {"open", "os.rename", "os.link", "os.mkdir", "os.rmdir", "os.remove", "ctypes.dlsym"}
FOREIGN = {
    "notes.txt": b"years of work",
    "engines/mine.engine": b"built for hours",
    "runs/2024/.hidden": b"x",
    "runs/empty": b"",
}


def write_old(place):
    write_bundle(place, b"old model")
    for name, content in FOREIGN.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)


def replace(place):
    with replacing.new_folder(place, overwrite=True) as fresh:
        write_bundle(fresh, b"new model")
        (fresh / "engines").mkdir()
        (fresh / "engines" / "new.engine").write_bytes(b"new")


def bundle_of(place):
    """Return the model's content, or None if there is no whole bundle."""
    try:
        return read_artifact(place, Manifest.load(place).artifact("onnx"))
    except BundleError:
        return None


def files_of(place):
    return {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}


def foreign_of(place):
    return {name: (place / name).read_bytes() for name in FOREIGN if (place / name).exists()}


def killed_before(step, place):
    """Replace a bundle in a process of its own that dies before a step; tell whether it died."""
    process = os.fork()
    if process == 0:
        count = 0

        def count_steps(event, _arguments):
            nonlocal count
            if event in STEPS:
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1

        sys.addaudithook(count_steps)
        replace(place)
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def check(place, *, in_two_steps):
    if place.exists() or not in_two_steps:
        assert bundle_of(place) in {b"old model", b"new model"}, "no bundle is there"
        assert foreign_of(place) == FOREIGN, "a file of the user's is not in its place"
    replacing.check_folder(place, overwrite=True)  # what the next export begins with
    assert [path.name for path in place.parent.iterdir()] == ["bundle"], "something hidden is left"
    assert bundle_of(place) in {b"old model", b"new model"}
    assert foreign_of(place) == FOREIGN
    assert files_of(place) - {"engines/new.engine"} == {*FOREIGN, "manifest.json", "model.onnx"}


def has_no_exchange(_one, _other):
    raise OSError(errno.EINVAL, "Invalid argument")


def main(base, *mode):
    if mode:
        replacing._exchange = has_no_exchange
    step, was_killed = 0, True
    while was_killed:
        place = Path(base, str(step), "bundle")
        write_old(place)
        was_killed = killed_before(step, place)
        check(place, in_two_steps=bool(mode))
        step += 1
    assert bundle_of(place) == b"new model"
    assert (place / "engines" / "new.engine").exists()
    print(step)


if __name__ == "__main__":
    main(*sys.argv[1:])
