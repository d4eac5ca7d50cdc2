"""The engines of the CPU compute wide convolutions in Winograd's form, unless they are told not to."""

import numpy as np
import pytest
from onnx import helper, numpy_helper
from tiny_bundle import feed, tiny_model, write_bundle

from edgeseg_runtime import load
from edgeseg_runtime.backends import open_backend
from edgeseg_runtime.bundle.graph_files import read_graph

ENGINES = ("onnxruntime", "openvino")
CHANNELS = 256


def wide_model():
    """Return the tiny model with a convolution of many channels between picture and masks."""
    model, rng = tiny_model(), np.random.default_rng(0)
    node = next(node for node in model.graph.node if node.name == "conv")
    index = list(model.graph.node).index(node)
    pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    for source, name, size in (
        ("picture", "widen", (CHANNELS, 3, 3, 3)),
        ("widen", "wide", (CHANNELS, CHANNELS, 3, 3)),
    ):
        weight = rng.normal(0, 1 / np.sqrt(np.prod(size[1:])), size).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, f"{name}_weight"))
        conv = helper.make_node("Conv", [source, f"{name}_weight"], [name], **pads)
        model.graph.node.insert(index, conv)
        index += 1
    (weight,) = (item for item in model.graph.initializer if item.name == "weight")
    narrow = rng.normal(0, 0.002, (len(numpy_helper.to_array(weight)), CHANNELS, 3, 3))
    weight.CopyFrom(numpy_helper.from_array(narrow.astype(np.float32), "weight"))
    node.input[0] = "wide"
    return model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    return folder, write_bundle(folder, wide_model())


@pytest.mark.parametrize("engine", ENGINES)
def test_what_gains_is_rewritten_and_gives_the_same(bundle, engine):
    pytest.importorskip(engine)
    found = {}
    for winograd, num_rewritten in (("auto", 1), ("off", 0)):
        backend = open_backend(engine, *bundle, threads=1, winograd=winograd)
        assert backend.describe()["num_winograd"] == num_rewritten
        found[winograd] = backend.run(feed())["masks"]
        backend.close()
    assert found["off"].std() > 0.01
    np.testing.assert_allclose(found["auto"], found["off"], rtol=0, atol=1e-5)
    assert (found["auto"] != found["off"]).any(), "another form rounds differently"


def test_it_is_the_default(bundle):
    pytest.importorskip("onnxruntime")
    with load(bundle[0], backend="onnxruntime", threads=1) as predictor:
        assert predictor.backend.describe()["num_winograd"] == 1
    with load(bundle[0], backend="onnxruntime", threads=1, winograd="off") as predictor:
        assert predictor.backend.describe()["num_winograd"] == 0


def test_openvino_leaves_convolutions_in_few_bits_as_they_are(bundle):
    pytest.importorskip("openvino")
    backend = open_backend("openvino", *bundle, threads=1, precision=None)
    assert backend.describe()["num_winograd"] == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_another_choice_is_an_error(bundle, engine):
    pytest.importorskip(engine)
    with pytest.raises(ValueError, match="winograd is 'on'; expected one of auto, off"):
        open_backend(engine, *bundle, winograd="on")


def test_the_bundle_keeps_the_plain_graph_for_other_engines(bundle):
    pytest.importorskip("onnxruntime")
    load(bundle[0], backend="onnxruntime", threads=1).close()
    assert read_graph(*bundle, "main") == (bundle[0] / "model.onnx").read_bytes()
    assert b"winograd" not in read_graph(*bundle, "main")
