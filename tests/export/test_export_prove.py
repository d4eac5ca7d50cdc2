"""A bundle whose manifest and graph disagree is refused where it is written, not on the device."""

import hashlib

import numpy as np
import pytest
from constant_bundle import constant_graph
from fake_model import task_manifest
from onnx import TensorProto, helper, numpy_helper

from edgeseg_export.prove import prove_bundle
from edgeseg_export.trace import ExportError
from edgeseg_runtime.bundle.manifest import Artifact

ROWS = 20
PICTURES = [np.full((40, 50, 3), grey, np.uint8) for grey in (0, 200)]
WHOLE = {"resize": "stretch", "rounding": "floor"}
NAMES = {"labels": ("__background__", "disc", "star"), "category_ids": (0, 1, 2)}


def outputs(*, rows=ROWS, label=2, label_dtype=np.int32):
    return {
        "boxes": np.tile(np.float32([2, 3, 30, 40]), (1, rows, 1)),
        "scores": np.full((1, rows), 0.5, np.float32),
        "labels": np.full((1, rows), label, label_dtype),
    }


def shapes(*, rows=ROWS):
    return {name: array.shape[1:] for name, array in outputs(rows=rows).items()}


def write(folder, graph, *, rows=ROWS, task="instances", promised=None, **changes):
    """Write a bundle of a graph, with a free batch axis, and of what the manifest promises of it."""
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    content = graph.SerializeToString()
    artifact = Artifact(
        file="model.onnx", sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)
    )
    manifest = task_manifest(
        task,
        promised or shapes(rows=rows),
        preprocess=WHOLE,
        artifacts={"onnx": artifact},
        **{**NAMES, **changes},
    )
    (folder / "model.onnx").write_bytes(content)
    manifest.save(folder)
    return folder


def with_nodes(*nodes, **initializers):
    """Return the graph of constants with further nodes; one that makes "scores" takes its place."""
    graph = constant_graph(outputs())
    made = {name for node in nodes for name in node.output}
    for node in [node for node in graph.graph.node if node.output[0] in made]:
        graph.graph.node.remove(node)
    graph.graph.node.extend(nodes)
    graph.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in initializers.items()
    )
    return graph


def top_k(count, *, size=5000):
    """The best of many scores, as a network would have it; the first rows are the result."""
    return with_nodes(
        helper.make_node("TopK", ["many", "count"], ["best", "places"], name="select"),
        helper.make_node("Slice", ["best", "zero", "rows", "one"], ["scores"]),
        many=np.linspace(0.9, 0.1, size, dtype=np.float32)[None],
        count=np.array([count]),
        zero=np.array([0]),
        rows=np.array([ROWS]),
        one=np.array([1]),
    )


def filtered():
    """Scores of the pixels that are not 0, as many as there are of those: cut or not, shapes are fixed."""
    return with_nodes(
        helper.make_node("NonZero", ["scores_value"], ["found"], name="filter"),
        helper.make_node("Slice", ["found", "one", "two"], ["rows"]),
        helper.make_node("Cast", ["rows"], ["all_rows"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["all_rows", "shape"], ["many"]),
        helper.make_node("Mul", ["many", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "scores_value"], ["scores"]),
        one=np.array([1]),
        two=np.array([2]),
        shape=np.array([1, ROWS]),
        nothing=np.float32(0),
    )


def of_free_length():
    graph = constant_graph(outputs())
    for value in graph.graph.output:
        value.type.tensor_type.shape.dim[1].dim_param = "found"
    return graph


@pytest.mark.parametrize(
    "graph",
    [constant_graph(outputs()), top_k(3840), top_k(30, size=30)],
    ids=["constants", "the most that engines sort", "few"],
)
def test_a_bundle_that_keeps_its_promise_is_one(tmp_path, graph):
    prove_bundle(write(tmp_path, graph), PICTURES)


@pytest.mark.parametrize(
    ("graph", "changes", "message"),
    [
        (
            constant_graph(outputs()),
            {"rows": 30},
            r"'boxes' is float32 of shape \[batch, 20, 4\] in the graph, float32 of shape \[-1, 30, 4\]",
        ),
        (
            constant_graph(outputs(label_dtype=np.int64)),
            {},
            r"'labels' is int64 of shape \[batch, 20\] in the graph, int32 of shape \[-1, 20\] in the manifest",
        ),
        (of_free_length(), {}, r"'boxes' is float32 of shape \[batch, found, 4\] in the graph"),
        (
            constant_graph(outputs()),
            {"promised": {**shapes(), "gender": (ROWS,)}},
            "manifest lists the tensor 'gender', the graph has boxes, labels, scores",
        ),
        (filtered(), {}, r"the node 'filter' \(NonZero\), an operator that is not among those"),
        (top_k(3841), {}, r"'select' \(TopK\) sorts 3841; expected a fixed number of at most 3840"),
        (
            constant_graph(outputs(label=3)),
            {},
            "the model found the label 3, the manifest names 3, from 0 on",
        ),
        (
            constant_graph(outputs()),
            {"keypoint_names": ("nose",), "skeleton": (), "task": "no_such_task"},
            "the task is 'no_such_task'",
        ),
    ],
    ids=[
        "rows",
        "dtype",
        "free axis",
        "missing output",
        "data-dependent",
        "top-k",
        "labels",
        "task",
    ],
)
def test_a_bundle_that_breaks_its_promise_is_refused(tmp_path, graph, changes, message):
    with pytest.raises(ExportError, match=f"the bundle cannot be used: .*{message}") as caught:
        prove_bundle(write(tmp_path, graph, **changes), PICTURES)
    assert str(caught.value).count("Nothing was written") == 1


def test_a_number_to_sort_that_is_computed_is_refused(tmp_path):
    graph = top_k(30)
    graph.graph.node.insert(0, helper.make_node("Identity", ["count"], ["computed"]))
    (node,) = (node for node in graph.graph.node if node.op_type == "TopK")
    node.input[1] = "computed"
    with pytest.raises(ExportError, match="sorts as many as its values say"):
        prove_bundle(write(tmp_path, graph), PICTURES)


def test_a_sort_in_a_function_counts(tmp_path):
    graph = constant_graph(outputs())
    body = [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.array([4000]))),
        helper.make_node("TopK", ["x", "k"], ["y", "places"], name="inner"),
    ]
    opsets = [helper.make_opsetid("", 17)]
    graph.functions.append(helper.make_function("edgeseg", "Best", ["x"], ["y"], body, opsets))
    with pytest.raises(ExportError, match=r"'inner' \(TopK\) sorts 4000"):
        prove_bundle(write(tmp_path, graph), PICTURES)


def test_a_graph_that_fails_on_a_picture_is_refused(tmp_path):
    graph = with_nodes(
        helper.make_node("Cast", ["image"], ["grey"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["grey"], ["brightest"], keepdims=0),
        helper.make_node("Gather", ["table", "brightest"], ["offset"]),
        helper.make_node("Add", ["scores_value", "offset"], ["scores"]),
        table=np.zeros(100, np.float32),
    )
    prove_bundle(write(tmp_path, graph), PICTURES[:1])
    with pytest.raises(ExportError, match="the bundle cannot be used"):
        prove_bundle(write(tmp_path, graph), PICTURES)


def test_a_model_of_one_object_is_proven_too(tmp_path):
    points = {
        "points": np.zeros((1, 5, 2), np.float32),
        "scores": np.ones((1, 5), np.float32),
    }
    promised = {name: array.shape[1:] for name, array in points.items()}
    graph = constant_graph(points)
    prove_bundle(write(tmp_path, graph, task="landmarks", promised=promised), PICTURES)
