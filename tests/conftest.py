"""Fixtures of all tests."""

import functools
import os

import cv2
import numpy as np
import pytest
from tiny_bundle import write_bundle

from edgeseg_runtime.errors import BackendUnavailable
from edgeseg_runtime.tensorrt import cuda


def pytest_collection_modifyitems(items):
    """Skip what needs a GPU where there is none, and say what was missing."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    try:
        cuda.probe()
    except BackendUnavailable as error:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=str(error)))


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory):
    """Keep the tests out of the user's engine cache; the folder is theirs to fill."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESEG_CACHE", str(folder))
        yield folder


@pytest.fixture
def tiny(tmp_path):
    """Return the folder of a bundle that takes milliseconds to run."""
    write_bundle(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def pictures(tmp_path):
    """Return a folder of two pictures and a damaged one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(2):
        image = np.full((60, 80, 3), 40 * number + 20, np.uint8)
        assert cv2.imwrite(str(folder / f"{number}.png"), image)
    (folder / "damaged.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def video(tmp_path):
    """Return a video of ten frames at 10 per second."""
    path = tmp_path / "street.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (80, 64))
    for number in range(10):
        writer.write(np.full((64, 80, 3), 20 * number, np.uint8))
    writer.release()
    return path


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Name and make(path) -> the path; the first worker that asks makes it, whole or not at all."""
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "made_once"
    shared.mkdir(exist_ok=True)

    def get(name, make):
        from filelock import FileLock  # the environment of the runtime's tests has none

        path = shared / name
        with FileLock(f"{path}.lock"):
            if not path.exists():
                make(path)
        return path

    return get


@pytest.fixture(scope="session")
def bundle_of(made_once):
    """Name of a tiny model, and precision -> its bundle with the shipped weights; read-only."""

    @functools.cache
    def export(name, precision="fp32"):
        from agreement_cases import write_shipped_bundle  # the runtime's tests have no torch

        return made_once(
            f"{name}_{precision}", lambda folder: write_shipped_bundle(folder, name, precision)
        )

    return export
