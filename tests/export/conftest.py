"""Exported bundles, made once a session."""

import functools

import pytest

import edgeseg


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory):
    """Name of a tiny model -> its bundle, with the shipped weights; read-only."""

    @functools.cache
    def export(name):
        model = edgeseg.create_model(name, weights="shapes")
        return edgeseg.export_bundle(model, tmp_path_factory.mktemp("bundles") / name)

    return export


@pytest.fixture(scope="session")
def tiny_model():
    return edgeseg.create_model("maskrcnn_tiny", weights="shapes")


@pytest.fixture(scope="session")
def tiny_bundle(bundle_of):
    """The bundle of maskrcnn_tiny with its shipped weights."""
    return bundle_of("maskrcnn_tiny")
