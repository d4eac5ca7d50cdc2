"""A bundle of any task whose model gives the same outputs for every picture."""

import dataclasses
import hashlib

import onnx
from fake_model import task_manifest
from onnx import TensorProto, helper, numpy_helper

from edgeseg_runtime.bundle.manifest import Artifact, one_graph


def constant_graph(outputs, *, size=(64, 64)):
    """Return a graph that takes `image` and gives these arrays (1, ...)."""
    values = [f"{name}_value" for name in outputs]
    graph = helper.make_graph(
        [helper.make_node("Identity", [v], [o]) for v, o in zip(values, outputs, strict=True)],
        "constants",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, *size, 3])],
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in outputs.items()
        ],
        [numpy_helper.from_array(a, v) for a, v in zip(outputs.values(), values, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def write_constant_bundle(folder, task, outputs, **changes):
    """Write a bundle and return its manifest; `changes` are those of `task_manifest`."""
    content = constant_graph(outputs).SerializeToString()
    artifact = Artifact(
        file="model.onnx",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
    )
    shapes = {name: array.shape[1:] for name, array in outputs.items()}
    manifest = task_manifest(task, shapes, artifacts={"onnx": artifact}, **changes)
    image = dataclasses.replace(manifest.inputs[0], shape=(1, 64, 64, 3))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    manifest = dataclasses.replace(manifest, graphs=one_graph([image], manifest.outputs))
    manifest.save(folder)
    return manifest
