"""Traces a reference model into ONNX graphs of standard and edgeseg operators."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import onnx_ir
import torch
from torch import Tensor, nn

from edgeseg.models.reference import ReferenceModel
from edgeseg_export.onnx_model import MIN_BYTES, Array, OnnxModel
from edgeseg_runtime.bundle.graphs import MAIN, Graph, TensorSpec
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.errors import EdgesegError

OPSET = 20
EXAMPLE_ROWS = 8
"""Of a stage whose rows are free; torch takes axes of 0 or 1 for fixed ones."""


class ExportError(EdgesegError):
    """The model cannot be turned into a graph."""


def trace(
    model: ReferenceModel,
    manifest: Manifest,
    name: str = MAIN,
    *,
    taps: Sequence[str] = (),
    dynamic_batch: bool = False,
) -> OnnxModel:
    """Return a graph of ``model``; edgeseg's operators are nodes without a body yet.

    Args:
        model: a reference model.
        manifest: its graphs' inputs and outputs.
        name: of the graph.
        taps: intermediate stages that become further outputs, behind the manifest's.
        dynamic_batch: leave the first axis of every input and output free.

    Raises:
        ExportError: the exporter refused the model.
    """
    graph = manifest.graphs[name]
    outputs = [spec.name for spec in graph.outputs]
    inputs = {spec.name: example(spec, graph) for spec in graph.inputs}
    free = tuple(_free_axes(spec, graph, dynamic_batch=dynamic_batch) for spec in graph.inputs)
    module = _Tapped(model, name, list(inputs), (*outputs, *taps)).eval()
    with _quiet_exporter():
        try:
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=[*outputs, *taps],
                dynamic_shapes=(free,) if any(free) else None,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(
                f"torch {torch.__version__} could not export {manifest.name}: {error}"
            ) from error
    assert program is not None
    return _without_copies(program.model)


def _without_copies(traced: onnx_ir.Model) -> OnnxModel:
    """Return a model whose large weights are the arrays that the exporter has, often the parameters themselves."""
    weights: dict[str, Array] = {}
    for name, value in traced.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < MIN_BYTES:
            continue
        weights[name] = np.ascontiguousarray(tensor.numpy())
        value.const_value = onnx_ir.ExternalTensor(
            name, None, None, tensor.dtype, shape=onnx_ir.Shape(tensor.shape.numpy()), name=name
        )
    proto = onnx_ir.to_proto(traced)
    for initializer in proto.graph.initializer:
        initializer.ClearField("data_location")
        initializer.ClearField("external_data")
    return OnnxModel(proto, weights)


def stage_names(model: ReferenceModel, manifest: Manifest, name: str = MAIN) -> list[str]:
    """Return the names of a graph's intermediate stages, in the order of computation."""
    graph = manifest.graphs[name]
    inputs = {spec.name: example(spec, graph) for spec in graph.inputs}
    with torch.inference_mode():
        stages = model.graph_stages(name, **inputs)
    return [stage for stage in stages if stage not in {spec.name for spec in graph.outputs}]


class _Tapped(nn.Module):
    """A graph of a model that returns chosen stages as a tuple."""

    def __init__(
        self, model: ReferenceModel, graph: str, inputs: Sequence[str], stages: Sequence[str]
    ) -> None:
        super().__init__()
        self.model = model
        self.graph = graph
        self.inputs = tuple(inputs)
        self.stages = tuple(stages)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(self.inputs, inputs, strict=True))
        stages = self.model.graph_stages(self.graph, **named)
        return tuple(stages[name] for name in self.stages)


def example(spec: TensorSpec, graph: Graph) -> Tensor:
    """Return an input of this shape; a size of the valid picture is the whole picture's."""
    rows = 1 if graph.rows is None else min(EXAMPLE_ROWS, graph.rows.maximum)
    free = (1, rows)
    shape = (free[axis] if size == -1 else size for axis, size in enumerate(spec.shape))
    return torch.ones(tuple(shape), dtype=getattr(torch, spec.dtype))


def _free_axes(spec: TensorSpec, graph: Graph, *, dynamic_batch: bool) -> dict[int, str]:
    """Return names for the axes of an input whose sizes a graph must not fix."""
    axes = {0: "batch"} if dynamic_batch else {}
    is_free = spec.has_rows and graph.rows is not None and graph.rows.maximum > 1
    return axes | ({1: "rows"} if is_free else {})


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep torch's remarks about its own internals and absent packages from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*The axis name: batch will not be used.*")
        try:
            yield
        finally:
            logger.setLevel(level)
