"""A detector of bright squares, made of three convolutions: right results are known, nothing is trained."""

import hashlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeseg_export.onnx_model import OnnxModel
from edgeseg_runtime.bundle.manifest import Artifact, Manifest, Preprocess, TensorSpec, one_graph

SIZE, CELL, K = 64, 8, 6
NUM_CELLS = (SIZE // CELL) ** 2
SQUARES = ((1, 1), (2, 5), (6, 3))  # row, column of cells


def bright_squares(number=0):
    """Return a picture with three bright squares that no two pictures have in the same places."""
    picture = np.full((SIZE, SIZE, 3), 20 + number, np.uint8)
    for row, column in SQUARES:
        top, left = CELL * row, CELL * ((column + number) % (SIZE // CELL))
        picture[top : top + CELL, left : left + CELL] = 220
    return picture


def square_detector(*, outlier=0.0):
    """Return a graph whose modules are `stem`, `body`, `head` and `after`; the last one sees rows.

    Args:
        outlier: what one channel of `body` always adds; clipped away behind it, unused, and fatal
            to an int8 scale that must hold it.
    """
    cells = np.stack(np.divmod(np.arange(NUM_CELLS), SIZE // CELL), 1)[:, ::-1] * CELL
    stem = np.zeros((2, 3, 3, 3), np.float32)
    stem[0], stem[1] = 1 / 27, 1 / 54
    body = np.zeros((2, 2, CELL, CELL), np.float32)
    body[0, 0], body[1, 1] = 1 / CELL**2, 1 / CELL**2
    constants = {
        "scale": np.array(1 / 255, np.float32),
        "stem.weight": stem,
        "stem.bias": np.array([0, 0.01], np.float32),
        "body.weight": body,
        "body.bias": np.array([0, outlier], np.float32),
        "low": np.array(0, np.float32),
        "high": np.array(1, np.float32),
        "head.weight": np.array([12, 0.5], np.float32).reshape(1, 2, 1, 1),
        "head.bias": np.array([-6], np.float32),
        "flat": np.array([1, NUM_CELLS], np.int64),
        "k": np.array([K], np.int64),
        "column": np.array([1, 1, 1, K], np.int64),
        "after.weight": np.ones((1, 1, 1, 1), np.float32),
        "row": np.array([1, K], np.int64),
        "cells": np.concatenate([cells, cells + CELL], 1).astype(np.float32),
        "nothing": np.array(0, np.int64),
        "one": np.array(1, np.int64),
    }
    make = helper.make_node
    nodes = [
        make("Cast", ["image"], ["levels"], name="Cast", to=TensorProto.FLOAT),
        make("Transpose", ["levels"], ["planes"], name="Transpose", perm=[0, 3, 1, 2]),
        make("Mul", ["planes", "scale"], ["picture"], name="Mul"),
        make("Conv", ["picture", "stem.weight", "stem.bias"], ["a"], name="stem/Conv", pads=[1] * 4),
        make("Relu", ["a"], ["a_clear"], name="stem/Relu"),
        make("Conv", ["a_clear", "body.weight", "body.bias"], ["b"], name="body/Conv",
             strides=[CELL, CELL]),
        make("Relu", ["b"], ["b_clear"], name="body/Relu"),
        make("Min", ["b_clear", "high"], ["b_cut"], name="Min"),
        make("Conv", ["b_cut", "head.weight", "head.bias"], ["logits"], name="head/Conv"),
        make("Reshape", ["logits", "flat"], ["flat_logits"], name="Reshape"),
        make("TopK", ["flat_logits", "k"], ["best", "which"], name="TopK", axis=1),
        make("Reshape", ["best", "column"], ["best_column"], name="Reshape_1"),
        make("Conv", ["best_column", "after.weight"], ["scaled"], name="after/Conv"),
        make("Reshape", ["scaled", "row"], ["scaled_row"], name="Reshape_2"),
        make("Sigmoid", ["scaled_row"], ["scores"], name="Sigmoid"),
        make("Gather", ["cells", "which"], ["boxes"], name="Gather", axis=0),
        make("Mul", ["which", "nothing"], ["zeros"], name="Mul_1"),
        make("Add", ["zeros", "one"], ["ones"], name="Add"),
        make("Cast", ["ones"], ["labels"], name="Cast_1", to=TensorProto.INT32),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "squares",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, SIZE, SIZE, 3])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, K, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, K]),
            helper.make_tensor_value_info("labels", TensorProto.INT32, [1, K]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model)
    return OnnxModel(model)


def square_manifest(**changes):
    """Return the manifest of `square_detector`, without artifacts."""
    options = {
        "name": "squares",
        "task": "instances",
        "precision": "fp32",
        "graphs": one_graph(
            [TensorSpec(name="image", dtype="uint8", shape=(1, SIZE, SIZE, 3))],
            [
                TensorSpec(name="boxes", dtype="float32", shape=(1, K, 4)),
                TensorSpec(name="scores", dtype="float32", shape=(1, K)),
                TensorSpec(name="labels", dtype="int32", shape=(1, K)),
            ],
        ),
        "preprocess": Preprocess(height=SIZE, width=SIZE, resize="stretch"),
        "labels": ("__background__", "square"),
        "category_ids": (0, 1),
    }
    return Manifest(**(options | changes))


def write_square_bundle(folder, model, **changes):
    """Write a bundle around a graph and return its folder."""
    folder.mkdir(parents=True)
    content = model.to_bytes()
    (folder / "model.onnx").write_bytes(content)
    artifact = Artifact(
        file="model.onnx", sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)
    )
    square_manifest(artifacts={"onnx": artifact}, **changes).save(folder)
    return folder
