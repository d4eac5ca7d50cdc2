"""A bundle of the instance task that is made of a few ONNX nodes: no trained model needed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeseg_runtime.bundle.manifest import Artifact, Manifest, Preprocess, TensorSpec, one_graph

HEIGHT, WIDTH, K, M = 48, 64, 4, 8

LABELS = ("__background__", "circle", "square")


def tiny_model(*, scores: tuple[float, ...] = (0.9, 0.75, 0.5, 0.0), convolution: bool = True):
    """Return a model with the instance task's contract.

    The boxes and scores are constants; the masks come out of a convolution over the picture, so
    that a changed picture or weight changes them.
    """
    rng = np.random.default_rng(7)
    boxes = np.array([[[4, 4, 30, 28], [20, 10, 60, 40], [0, 0, 64, 48], [0, 0, 0, 0]]], np.float32)
    constants = {
        "weight": rng.normal(0, 0.02, (K, 3, 3, 3)).astype(np.float32),
        "mask_sizes": np.array([1, K, M, M], np.int64),
        "zero": np.zeros((), np.float32),
        "boxes_value": boxes,
        "scores_value": np.array([scores], np.float32),
        "labels_value": np.array([[1, 2, 1, 0]], np.int32),
        "one": np.ones((), np.float32),
        "zero_int": np.zeros((), np.int32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["image_float"], to=TensorProto.FLOAT, name="to_float"),
        helper.make_node("Transpose", ["image_float"], ["picture"], perm=[0, 3, 1, 2], name="nchw"),
        helper.make_node(
            "Conv",
            ["picture", "weight"],
            ["features"],
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
            name="conv",
        ),
        helper.make_node(
            "AveragePool",
            ["features"],
            ["pooled"],
            kernel_shape=[HEIGHT // M, WIDTH // M],
            strides=[HEIGHT // M, WIDTH // M],
            name="pool",
        ),
        helper.make_node("Sigmoid", ["pooled"], ["masks"], name="sigmoid"),
        # The size of the picture takes part in every output, times zero.
        helper.make_node("Cast", ["image_size"], ["size_float"], to=TensorProto.FLOAT, name="size"),
        helper.make_node("ReduceSum", ["size_float"], ["size_sum"], keepdims=0, name="sum"),
        helper.make_node("Mul", ["size_sum", "zero"], ["nothing"], name="nothing"),
        helper.make_node("Add", ["boxes_value", "nothing"], ["boxes"], name="boxes"),
        helper.make_node("Add", ["scores_value", "nothing"], ["scores"], name="scores"),
        helper.make_node("Cast", ["nothing"], ["nothing_int"], to=TensorProto.INT32, name="int"),
        helper.make_node("Add", ["labels_value", "nothing_int"], ["labels"], name="labels"),
    ]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("image", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3]),
            helper.make_tensor_value_info("image_size", TensorProto.INT32, [1, 2]),
        ],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, K, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, K]),
            helper.make_tensor_value_info("labels", TensorProto.INT32, [1, K]),
            helper.make_tensor_value_info("masks", TensorProto.FLOAT, [1, K, M, M]),
        ],
        [numpy_helper.from_array(v, n) for n, v in constants.items() if n in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def write_bundle(folder: Path, model: onnx.ModelProto | bytes | None = None) -> Manifest:
    """Write a bundle around a model and return its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_model() if model is None else model
    content = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    manifest = Manifest(
        name="tiny",
        task="instances",
        precision="fp32",
        graphs=one_graph(
            inputs=(
                TensorSpec(name="image", dtype="uint8", shape=(1, HEIGHT, WIDTH, 3)),
                TensorSpec(name="image_size", dtype="int32", shape=(1, 2)),
            ),
            outputs=(
                TensorSpec(name="boxes", dtype="float32", shape=(1, K, 4)),
                TensorSpec(name="scores", dtype="float32", shape=(1, K)),
                TensorSpec(name="labels", dtype="int32", shape=(1, K)),
                TensorSpec(name="masks", dtype="float32", shape=(1, K, M, M)),
            ),
        ),
        preprocess=Preprocess(height=HEIGHT, width=WIDTH, resize="letterbox"),
        postprocess={
            "mask_paste": "expanded_box",
            "mask_threshold": 0.5,
            "drop_empty_boxes": False,
            "score_threshold": 0.0,
            "keypoints": "none",
        },
        labels=LABELS,
        category_ids=(0, 1, 2),
        artifacts={
            "onnx": Artifact(
                file="model.onnx",
                sha256=hashlib.sha256(content).hexdigest(),
                size_bytes=len(content),
            )
        },
    )
    manifest.save(folder)
    return manifest


def feed(seed: int = 0) -> dict[str, np.ndarray]:
    """Return random inputs of the model."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (1, HEIGHT, WIDTH, 3), dtype=np.uint8),
        "image_size": np.array([[HEIGHT, WIDTH]], np.int32),
    }
