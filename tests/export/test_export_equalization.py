"""Channels in other units: float32 results stay, int8 ones get better; and what is taken off biases."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseg_export.bias_correction import bias_shifts
from edgeseg_export.calibration import calibrate
from edgeseg_export.channels import channels_of
from edgeseg_export.equalization import channel_factors, channel_sizes, equalize
from edgeseg_export.factors import KEY, factors_of, nearest_factors, with_factors
from edgeseg_export.onnx_model import OnnxModel
from edgeseg_export.passes.quantize import LARGEST_BIAS, quantize
from edgeseg_export.precision import convert, values_needed
from edgeseg_export.sessions import cpu_session
from edgeseg_export.taps import TapMeter
from edgeseg_runtime.bundle.graphs import TensorSpec, one_graph
from edgeseg_runtime.bundle.manifest import Manifest, Preprocess

SIZE = 16
RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, (SIZE, SIZE, 3), np.uint8) for _ in range(4)]
SPREAD = np.geomspace(0.05, 5, 8)
"""Channels of the network below differ a hundredfold."""


def manifest():
    spec = TensorSpec(name="image", dtype="uint8", shape=(1, SIZE, SIZE, 3))
    outputs = (  # of the task; the graphs below give others
        TensorSpec(name="boxes", dtype="float32", shape=(1, 1, 4)),
        TensorSpec(name="scores", dtype="float32", shape=(1, 1)),
        TensorSpec(name="labels", dtype="int32", shape=(1, 1)),
    )
    return Manifest(
        name="network",
        task="instances",
        precision="fp32",
        graphs=one_graph(inputs=(spec,), outputs=outputs),
        preprocess=Preprocess(height=SIZE, width=SIZE, resize="stretch"),
    )


def model_of(nodes, weights, outputs):
    """Return a graph of a picture, its grey levels "x" around 0, and these nodes."""
    before = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["planes", "middle"], ["centred"]),
        helper.make_node("Mul", ["centred", "unit"], ["x"]),
    ]
    constants = {"middle": np.float32(127), "unit": np.float32(1 / 64), **weights}
    graph = helper.make_graph(
        [*before, *nodes],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, SIZE, SIZE, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return OnnxModel(onnx.shape_inference.infer_shapes(model))


def conv(x, weight, y, **attributes):
    padded = {"pads": [1] * 4} | attributes
    return helper.make_node("Conv", [x, weight, f"{weight}_b"], [y], name=f"m.{y}/Conv", **padded)


def weights_of(**shapes):
    rng = np.random.default_rng(1)
    found = {}
    for name, shape in shapes.items():
        found[name] = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape)
        found[f"{name}_b"] = rng.normal(0, 0.1, shape[0])
    return found


def network():
    """Everything that a factor goes through, with channels that differ a hundredfold."""
    nodes = [
        conv("x", "stem", "a"),
        helper.make_node("LeakyRelu", ["a"], ["b"], name="m.b/LeakyRelu", alpha=0.1),
        conv("b", "deep", "c", group=8),
        helper.make_node("Relu", ["c"], ["d"], name="m.d/Relu"),
        helper.make_node("MaxPool", ["d"], ["e"], name="m.e/MaxPool", kernel_shape=[1, 1]),
        conv("e", "wide", "f"),
        helper.make_node("Add", ["f", "e"], ["h"], name="m.h/Add"),
        conv("h", "shared", "i"),
        conv("e", "shared", "j"),
        helper.make_node("Concat", ["i", "j"], ["k"], name="m.k/Concat", axis=1),
        conv("k", "last", "l", strides=[2, 2]),
        helper.make_node("Sigmoid", ["l"], ["y"], name="out/Sigmoid"),
    ]
    weights = weights_of(
        stem=(8, 3, 3, 3), deep=(8, 1, 3, 3), wide=(8, 8, 3, 3), shared=(4, 8, 3, 3), last=(4, 8, 3, 3)
    )  # fmt: skip
    for name in ("stem", "stem_b"):
        weights[name] *= SPREAD.reshape(-1, *[1] * (weights[name].ndim - 1))
    weights["deep"] /= SPREAD[:, None, None, None] ** 0.5
    weights["wide"] /= SPREAD[None, :, None, None] ** 0.5
    return model_of(nodes, weights, ["y"])


def int8_assignment(model):
    return {n.name: "int8" for n in model.graph.node if n.name.startswith("m.")}


def run(model, names=("y",)):
    feeds = [{"image": picture[None]} for picture in PICTURES]
    session = cpu_session(model)
    return np.stack([session.run(list(names), feed)[0] for feed in feeds])


def lowered(model, *, method="minmax", shifts=None):
    assignment = int8_assignment(model)
    values = {"main": values_needed(model, assignment)}
    found = calibrate({"main": model}, manifest(), PICTURES, values, method=method)["main"]
    return convert(model, assignment, found, shifts or {})


def equal(model):
    graphs, assignment = {"main": model}, {"main": int8_assignment(model)}
    return equalize(graphs, graphs, manifest(), assignment, PICTURES).applied(graphs)["main"]


def snr_db(expected, found):
    return 10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum())


def test_equalising_leaves_float32_results_as_they_are():
    model = network()
    changed = equal(model)
    factors = factors_of(changed)
    assert {"a", "b", "c", "d", "e", "f", "h"} <= factors.keys()
    assert factors["a"].max() / factors["a"].min() > 20
    np.testing.assert_allclose(run(changed), run(model), rtol=1e-5, atol=1e-6)


def test_equalising_gives_small_channels_their_levels():
    model = network()
    plain, changed = (logits(lowered(m)) for m in (model, equal(model)))
    expected = logits(model)
    assert snr_db(expected, changed) > snr_db(expected, plain) + 6


def logits(model):
    """Return what Sigmoid reads."""
    copy = model.copy()
    copy.graph.output.append(helper.make_tensor_value_info("l", TensorProto.FLOAT, None))
    return run(copy, ["l"])


def test_the_nodes_of_an_equalised_graph_are_compared_in_the_units_of_the_model():
    model = network()
    candidate = lowered(equal(model))
    meter = TapMeter(model, candidate)
    for picture in PICTURES:
        meter.add({"image": picture[None]})
    assert min(tap.own_snr_db for tap in meter.differences()) > 25
    for item in candidate.proto.metadata_props:
        if item.key == KEY:
            item.value = "{}"
    meter = TapMeter(model, candidate)
    meter.add({"image": PICTURES[0][None]})
    assert min(tap.own_snr_db for tap in meter.differences()) < 10


@pytest.mark.parametrize("barrier", ["Sigmoid", "Clip", "an output", "another reader"])
def test_channels_stay_where_something_else_looks_at_them(barrier):
    reads = {
        "Sigmoid": [helper.make_node("Sigmoid", ["a"], ["b"])],
        "Clip": [helper.make_node("Clip", ["a", "", "unit"], ["b"])],
        "an output": [helper.make_node("Relu", ["a"], ["b"])],
        "another reader": [
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Sigmoid", ["a"], ["z"]),
        ],
    }[barrier]
    nodes = [conv("x", "first", "a"), *reads, conv("b", "second", "y")]
    weights = weights_of(first=(8, 3, 3, 3), second=(4, 8, 3, 3))
    outputs = ["y", "a"] if barrier == "an output" else ["y"]
    channels = channels_of({"main": model_of(nodes, weights, outputs)})
    assert not any(classes.any() for classes in channels.values.values())


def test_shared_weights_get_one_content_in_all_graphs():
    first, second = network(), network()
    graphs = {"key": first, "step": second}
    channels = channels_of(graphs)
    for value in ("a", "b", "h", "k"):
        np.testing.assert_array_equal(channels.values["key", value], channels.values["step", value])


def test_a_depthwise_reader_bears_every_factor():
    """Its kernels have scales of their own, so activations become equal: exponent 1."""
    nodes = [
        conv("x", "first", "a"),
        helper.make_node("Relu", ["a"], ["b"], name="m.b/Relu"),
        conv("b", "deep", "c", group=8),
        helper.make_node("Sigmoid", ["c"], ["y"]),
    ]
    weights = weights_of(first=(8, 3, 3, 3), deep=(8, 1, 3, 3))
    weights["first"] *= SPREAD[:, None, None, None]
    weights["first_b"] *= SPREAD
    model = model_of(nodes, weights, ["y"])
    graphs, assignment = {"main": model}, {"main": int8_assignment(model)}
    channels = channels_of(graphs)
    sizes = channel_sizes(graphs, manifest(), PICTURES, [("main", "b")])
    factors = channel_factors(graphs, channels, assignment, sizes, {})
    largest = sizes["main", "b"].largest / factors[channels.values["main", "b"]]
    assert largest.max() / largest.min() < 1.1 * 2**0.25


def test_factors_survive_the_metadata():
    factors = nearest_factors(np.geomspace(1e-4, 1e4, 40))
    model = with_factors(network(), {"a": factors, "b": np.ones(3)})
    found = factors_of(OnnxModel(onnx.ModelProto.FromString(model.to_bytes())))
    assert found.keys() == {"a"}
    np.testing.assert_array_equal(found["a"], factors)


def test_corrected_biases_keep_the_means_of_channels():
    model = equal(network())
    plain = lowered(model)
    assignments = {"main": int8_assignment(model)}
    graphs, candidates = {"main": model}, {"main": plain}
    shifts = bias_shifts(graphs, candidates, manifest(), assignments, PICTURES)["main"]
    assert shifts.keys() == {n.name for n in model.graph.node if n.op_type == "Conv"}
    corrected = lowered(model, shifts=shifts)
    again = bias_shifts(graphs, {"main": corrected}, manifest(), assignments, PICTURES)["main"]
    before, after = (
        np.concatenate([np.abs(shift) for shift in each.values()]) for each in (shifts, again)
    )
    assert before.max() > 1e-4
    assert after.max() < 0.05 * before.max()


def test_the_bias_of_a_dead_channel_fits_its_engine():
    """Weights of 1e-12 and a bias of 1 would be 1e13 products, more than int32 holds."""
    weights = weights_of(first=(4, 3, 3, 3))
    weights["first"][2] *= 1e-12
    weights["first_b"][2] = 1.0
    model = model_of([conv("x", "first", "y")], weights, ["y"])
    expected = run(model)
    changed = quantize(model.copy(), ["m.y/Conv"], {"x": 2.0, "y": 4.0})
    tensors = {t.name: changed.array(t) for t in changed.graph.initializer}
    products = tensors["x_scale"] * tensors["first_scale"]
    assert (np.abs(weights["first_b"]) <= LARGEST_BIAS * products * 1.001).all()
    np.testing.assert_allclose(run(changed)[:, :, 2], expected[:, :, 2], atol=4 / 127)
