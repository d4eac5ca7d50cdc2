"""The model that most exports are of."""

import pytest

import edgeseg


@pytest.fixture(scope="session")
def tiny_model():
    return edgeseg.create_model("maskrcnn_tiny", weights="shapes")


@pytest.fixture(scope="session")
def tiny_bundle(bundle_of):
    """The bundle of maskrcnn_tiny with its shipped weights."""
    return bundle_of("maskrcnn_tiny")
