"""Fixtures of all tests."""

import functools
import os

import pytest

from edgeseg_runtime import cuda
from edgeseg_runtime.errors import BackendUnavailable


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
