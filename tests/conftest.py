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
def bundle_of(tmp_path_factory):
    """Name of a tiny model, and precision -> its bundle with the shipped weights; read-only, one for all workers."""
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shipped"
    shared.mkdir(exist_ok=True)

    @functools.cache
    def export(name, precision="fp32"):
        from agreement_cases import write_shipped_bundle  # the runtime's tests have no torch
        from filelock import FileLock

        folder = shared / f"{name}_{precision}"
        with FileLock(f"{folder}.lock"):
            return folder if folder.exists() else write_shipped_bundle(folder, name, precision)

    return export
