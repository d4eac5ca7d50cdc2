"""Traces a reference model into an ONNX graph of standard and edgeseg operators."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import onnx
import torch
from torch import Tensor, nn

from edgeseg.models.reference import ReferenceModel
from edgeseg_runtime.errors import EdgesegError
from edgeseg_runtime.manifest import Manifest

OPSET = 20


class ExportError(EdgesegError):
    """The model cannot be turned into a graph."""


def trace(
    model: ReferenceModel,
    manifest: Manifest,
    *,
    taps: Sequence[str] = (),
    dynamic_batch: bool = False,
) -> onnx.ModelProto:
    """Return the graph of ``model``; edgeseg's operators are nodes without a body yet.

    Args:
        model: a reference model.
        manifest: its inputs and outputs.
        taps: intermediate stages that become further outputs, behind the manifest's.
        dynamic_batch: leave the first axis of every input and output free.

    Raises:
        ExportError: the exporter refused the model.
    """
    outputs = [spec.name for spec in manifest.outputs]
    inputs = tuple(_example(spec.shape, spec.dtype) for spec in manifest.inputs)
    free = ({0: "batch"},) * len(inputs)
    with _quiet_exporter():
        try:
            program = torch.onnx.export(
                _Tapped(model, (*outputs, *taps)).eval(),
                inputs,
                dynamo=True,
                opset_version=OPSET,
                input_names=[spec.name for spec in manifest.inputs],
                output_names=[*outputs, *taps],
                dynamic_shapes=(free,) if dynamic_batch else None,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(
                f"torch {torch.__version__} could not export {manifest.name}: {error}"
            ) from error
    assert program is not None
    return program.model_proto


def stage_names(model: ReferenceModel, manifest: Manifest) -> list[str]:
    """Return the names of the model's intermediate stages, in the order of computation."""
    inputs = (_example(spec.shape, spec.dtype) for spec in manifest.inputs)
    with torch.inference_mode():
        stages = model.stages(*inputs)
    return [name for name in stages if name not in {spec.name for spec in manifest.outputs}]


class _Tapped(nn.Module):
    """A model that returns chosen stages as a tuple."""

    def __init__(self, model: ReferenceModel, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        stages = self.model.stages(*inputs)
        return tuple(stages[name] for name in self.names)


def _example(shape: Sequence[int], dtype: str) -> Tensor:
    """Return an input of this shape; a size of the valid picture is the whole picture's."""
    return torch.ones(tuple(shape), dtype=getattr(torch, dtype))


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
