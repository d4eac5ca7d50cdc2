"""Small models, traced and exported once."""

import functools

import onnx
import pytest

import edgeseg
from edgeseg.models import model_manifest
from edgeseg_export.graph import in_one_graph, trace_graphs, without_stages
from edgeseg_export.onnx_model import model_from_proto
from edgeseg_runtime.bundle.files import write_atomic


@pytest.fixture(scope="session")
def tiny_model():
    return edgeseg.create_model("maskrcnn_tiny", weights="shapes")


@pytest.fixture(scope="session")
def tiny_bundle(bundle_of):
    """The bundle of maskrcnn_tiny with its shipped weights."""
    return bundle_of("maskrcnn_tiny")


@pytest.fixture(scope="session")
def traced(made_once):
    """Name of a model, and picture size -> all of it in one graph without bodies and taps, and its manifest; read-only."""

    @functools.cache
    def trace(name, image_size=None):
        weights = "shapes" if name.endswith("_tiny") else None
        model = edgeseg.create_model(name, weights=weights, image_size=image_size)
        manifest = in_one_graph(model_manifest(model))

        def write(path):
            (graph,) = without_stages(trace_graphs(model, manifest), manifest).values()
            write_atomic(path, graph.encoded())

        graph = onnx.load(made_once(f"{name}_{image_size}.onnx", write))
        return model_from_proto(graph), manifest

    return trace
