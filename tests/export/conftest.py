"""Small models, traced and exported once."""

import functools

import onnx
import pytest

import edgeseg
from edgeseg.models import model_manifest
from edgeseg_export.bundle import trace_graph
from edgeseg_export.passes.drop_outputs import drop_outputs
from edgeseg_runtime.files import write_atomic


@pytest.fixture(scope="session")
def tiny_model():
    return edgeseg.create_model("maskrcnn_tiny", weights="shapes")


@pytest.fixture(scope="session")
def tiny_bundle(bundle_of):
    """The bundle of maskrcnn_tiny with its shipped weights."""
    return bundle_of("maskrcnn_tiny")


@pytest.fixture(scope="session")
def traced(made_once):
    """Name of a model, and picture size -> its graph without bodies and stages, and its manifest; read-only."""

    @functools.cache
    def trace(name, image_size=None):
        weights = "shapes" if name.endswith("_tiny") else None
        model = edgeseg.create_model(name, weights=weights, image_size=image_size)
        manifest = model_manifest(model)

        def write(path):
            graph = trace_graph(model, manifest)
            graph = drop_outputs(graph, [spec.name for spec in manifest.outputs])
            write_atomic(path, graph.SerializeToString())

        return onnx.load(made_once(f"{name}_{image_size}.onnx", write)), manifest

    return trace
