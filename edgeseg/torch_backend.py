"""The reference model as one more engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from edgeseg_runtime.manifest import Manifest
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.tasks import create_task
from torch import nn

from edgeseg.models import get_spec

Tensors = dict[str, "np.ndarray[Any, Any]"]


class TorchBackend:
    """Runs a reference model eagerly: named arrays in, named arrays out."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()

    def run(self, inputs: Tensors) -> Tensors:
        """Return the model's outputs; the arrays belong to the caller."""
        device = next(self.model.parameters()).device
        tensors = {name: torch.from_numpy(array).to(device) for name, array in inputs.items()}
        with torch.inference_mode():
            outputs = self.model(**tensors)
        return {name: tensor.cpu().numpy() for name, tensor in outputs.items()}

    def close(self) -> None:
        """Do nothing: the model belongs to the caller."""


def torch_predictor(model: nn.Module) -> Predictor:
    """Return ``model`` behind the runtime's own pre- and post-processing."""
    manifest = model_manifest(model)
    return Predictor(manifest, create_task(manifest), TorchBackend(model))


def model_manifest(model: nn.Module) -> Manifest:
    """Return the manifest of a reference model, without artifacts."""
    name = getattr(model, "name", None)
    if not isinstance(name, str):
        raise ValueError(
            f"{type(model).__name__} found, expected a model made by edgeseg.create_model"
        )
    return get_spec(name).manifest(model)
