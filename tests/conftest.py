"""Fixtures of all tests."""

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
