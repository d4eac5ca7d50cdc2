"""Proves that a bundle that was just written is one that a device can use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeseg.models.layers.limits import MAX_TOP_K
from edgeseg_export.trace import ExportError
from edgeseg_runtime.bundle.manifest import Graph, Manifest, TensorSpec, read_artifact
from edgeseg_runtime.errors import EdgesegError
from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.predictor import load

Constants = Mapping[str, int]


def prove_bundle(folder: str | os.PathLike[str], pictures: Iterable[Image]) -> None:
    """Do nothing if a bundle's graphs keep what its manifest promises, on every engine.

    The bundle is opened with the runtime, and every picture goes through it: what a device would refuse is
    refused here.

    Args:
        folder: the bundle.
        pictures: (H, W, 3) uint8 BGR, at least one for each of the bundle's shapes.

    Raises:
        ExportError: what does not fit.
    """
    try:
        manifest = Manifest.load(folder)
        _check_graphs(folder, manifest)
        with load(folder, backend="onnxruntime") as predictor:
            for picture in pictures:
                found = np.asarray(getattr(predictor(picture), "labels", ()))
                check_names(int(found.max(initial=-1)), manifest)
    except EdgesegError as error:
        raise ExportError(
            f"the bundle cannot be used: {str(error).rstrip('.')}. Nothing was written; mend the model's "
            "manifest or its graph"
        ) from error


def _check_graphs(folder: str | os.PathLike[str], manifest: Manifest) -> None:
    for view in manifest.views:
        for graph in view.graphs.values():
            content = read_artifact(folder, manifest.artifact(graph.artifact))
            check_graph(onnx.load_model_from_string(content), graph)


def check_graph(model: onnx.ModelProto, graph: Graph) -> None:
    """Do nothing if a model's border is that of its graph and engines sort as much as it asks for.

    Args:
        model: with the bodies of its functions.
        graph: what the manifest says of it.

    Raises:
        ExportError: names the first tensor or node that is not.
    """
    for values, specs in (
        (model.graph.input, graph.inputs),
        (model.graph.output, graph.outputs),
    ):
        _check_border({value.name: value for value in values}, specs)
    for nodes, initializers in (
        (model.graph.node, model.graph.initializer),
        *((function.node, ()) for function in model.functions),
    ):
        constants = {**_initial(initializers), **_constants(nodes)}
        for node in nodes:
            if node.op_type == "TopK":
                _check_top_k(node, constants)


def check_names(largest_label: int, manifest: Manifest) -> None:
    """Do nothing if every class up to this one has a name, or none has.

    Raises:
        ExportError: it has none although others have.
    """
    if manifest.labels and largest_label >= len(manifest.labels):
        raise ExportError(
            f"the model found the label {largest_label}, the manifest names {len(manifest.labels)}, from 0 "
            "on; name every class"
        )


def _check_border(values: Mapping[str, onnx.ValueInfoProto], specs: Sequence[TensorSpec]) -> None:
    for spec in specs:
        if spec.name not in values:
            raise ExportError(
                f"the manifest lists the tensor {spec.name!r}, the graph has {', '.join(sorted(values))}"
            )
        tensor = values[spec.name].type.tensor_type
        dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        sizes = [dim.dim_value or -1 for dim in tensor.shape.dim]
        promised = (spec.dtype, list(spec.shape))
        if (dtype, sizes) != promised:
            raise ExportError(
                f"the tensor {spec.name!r} is {dtype} of shape {_shape_text(tensor.shape)} in the graph, "
                f"{spec.dtype} of shape {list(spec.shape)} in the manifest"
            )


def _shape_text(shape: onnx.TensorShapeProto) -> str:
    sizes = [str(dim.dim_value or dim.dim_param or "?") for dim in shape.dim]
    return f"[{', '.join(sizes)}]"


def _check_top_k(node: onnx.NodeProto, constants: Constants) -> None:
    count = constants.get(node.input[1])
    if count is None or count > MAX_TOP_K:
        found = "as many as its values say" if count is None else str(count)
        raise ExportError(
            f"the node {node.name!r} (TopK) sorts {found}; expected a fixed number of at most {MAX_TOP_K}: "
            "TensorRT sorts no more"
        )


def _initial(initializers: Iterable[onnx.TensorProto]) -> Constants:
    return _numbers({tensor.name: tensor for tensor in initializers})


def _constants(nodes: Sequence[onnx.NodeProto]) -> Constants:
    values = {node.output[0]: node.attribute[0] for node in nodes if node.op_type == "Constant"}
    return _numbers({name: helper.get_attribute_value(value) for name, value in values.items()})


def _numbers(values: Mapping[str, Any]) -> Constants:
    """Return those of the values that are one whole number; the others, weights too, are not decoded."""
    found = {}
    for name, value in values.items():
        if not isinstance(value, onnx.TensorProto):
            continue
        if value.data_type == onnx.TensorProto.INT64 and math.prod(value.dims) == 1:
            found[name] = int(numpy_helper.to_array(value).item())
    return found
