"""The reference model as one more engine."""

from __future__ import annotations

from typing import Any

import torch

from edgeseg.models import model_manifest
from edgeseg.models.reference import ReferenceModel
from edgeseg_runtime.backends import Tensors
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.tasks import create_task


class TorchBackend:
    """Runs a reference model eagerly: named arrays in, named arrays out."""

    def __init__(self, model: ReferenceModel) -> None:
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


def torch_predictor(model: ReferenceModel) -> Predictor[Any]:
    """Return ``model`` behind the runtime's own pre- and post-processing."""
    manifest = model_manifest(model)
    return Predictor(manifest, create_task(manifest), TorchBackend(model))
