"""Exported bundles, made once a session."""

import pytest

import edgeseg


@pytest.fixture(scope="session")
def tiny_model():
    return edgeseg.create_model("maskrcnn_tiny", weights="shapes")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model, tmp_path_factory):
    """The bundle of maskrcnn_tiny with its shipped weights."""
    return edgeseg.export_bundle(tiny_model, tmp_path_factory.mktemp("bundles") / "tiny")
