"""Proves that a bundle that was just written is one that a device can use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeseg.models.layers.limits import MAX_TOP_K
from edgeseg_export.trace import ExportError
from edgeseg_runtime.errors import EdgesegError
from edgeseg_runtime.image import Image
from edgeseg_runtime.manifest import Manifest, TensorSpec, read_artifact
from edgeseg_runtime.predictor import load

DATA_DEPENDENT = ("Compress", "NonMaxSuppression", "NonZero", "Unique")
"""Operators whose result has as many elements as the values say; TensorRT plans memory beforehand."""

Constants = Mapping[str, int]


def prove_bundle(folder: str | os.PathLike[str], pictures: Iterable[Image]) -> None:
    """Do nothing if a bundle's graph keeps what its manifest promises and every engine can plan it.

    The bundle is opened with the runtime, and every picture goes through it: what a device would refuse is
    refused here.

    Args:
        folder: the bundle.
        pictures: (H, W, 3) uint8 BGR, at least one.

    Raises:
        ExportError: what does not fit, and how it was found.
    """
    try:
        manifest = Manifest.load(folder)
        check_graph(
            onnx.load_model_from_string(read_artifact(folder, manifest.artifact("onnx"))),
            inputs=manifest.inputs,
            outputs=manifest.outputs,
        )
        with load(folder, backend="onnxruntime") as predictor:
            for picture in pictures:
                _check_labels(predictor(picture), manifest)
    except EdgesegError as error:
        raise ExportError(
            f"the bundle cannot be used: {error}. Nothing was written; mend the model's manifest or its graph"
        ) from error


def check_graph(
    graph: onnx.ModelProto, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Do nothing if a graph's border is that of its specs and every engine can plan its memory.

    Args:
        graph: with the bodies of its functions.
        inputs: what it takes.
        outputs: what it gives; -1 is an axis of any length.

    Raises:
        ExportError: names the first tensor or node that is not.
    """
    for values, specs in ((graph.graph.input, inputs), (graph.graph.output, outputs)):
        _check_border({value.name: value for value in values}, specs)
    for node, constants in _nodes(graph):
        if node.op_type in DATA_DEPENDENT and node.domain in ("", "ai.onnx"):
            raise ExportError(
                f"the node {node.name!r} ({node.op_type}) gives as many elements as its values say; expected "
                "operators whose shapes are known beforehand: TopK with a fixed number, a mask"
            )
        if node.op_type == "TopK":
            _check_top_k(node, constants)


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


def _nodes(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, Constants]]:
    """Yield every node, those of functions and of bodies too, and the single numbers it can see."""
    yield from _nodes_of(model.graph.node, _initial(model.graph))
    for function in model.functions:
        yield from _nodes_of(function.node, {})


def _nodes_of(
    nodes: Sequence[onnx.NodeProto], outer: Constants
) -> Iterator[tuple[onnx.NodeProto, Constants]]:
    constants = {**outer, **_constants(nodes)}
    for node in nodes:
        yield node, constants
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _nodes_of(body.node, {**constants, **_initial(body)})


def _initial(graph: onnx.GraphProto) -> Constants:
    return _numbers({tensor.name: tensor for tensor in graph.initializer})


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


def _check_labels(result: Any, manifest: Manifest) -> None:
    """Refuse a class that has no name although others have."""
    labels = np.asarray(getattr(result, "labels", ()))
    if manifest.labels and labels.size and labels.max() >= len(manifest.labels):
        raise ExportError(
            f"the model found the label {labels.max()}, the manifest names {len(manifest.labels)}, from 0 on"
        )
