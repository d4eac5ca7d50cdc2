"""The reference model as one more engine."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgeseg.models import get_spec, model_manifest
from edgeseg.models.reference import ReferenceModel
from edgeseg_runtime.backends import State, Tensors
from edgeseg_runtime.backends.state import KeptTensors, first_rows
from edgeseg_runtime.bundle.graphs import MAIN
from edgeseg_runtime.bundle.manifest import Manifest, with_variants
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.session import Route
from edgeseg_runtime.tasks import create_task


class TorchBackend:
    """Runs a reference model eagerly: named arrays in, named arrays out.

    Args:
        model: a reference model.
        manifest: of the model, or another one of its manifests, such as that of one graph.
    """

    def __init__(self, model: ReferenceModel, manifest: Manifest | None = None) -> None:
        self.model = model.eval()
        self._graphs = (manifest or model_manifest(model)).graphs

    def run(
        self,
        inputs: Tensors,
        graph: str = MAIN,
        state: State | None = None,
        rows: int | None = None,
    ) -> Tensors:
        """Return the outputs that results are read from; the arrays belong to the caller."""
        stages = self.stages(inputs, graph, state, rows)
        return {spec.name: _to_host(stages[spec.name]) for spec in self._graphs[graph].given}

    def stages(
        self,
        inputs: Tensors,
        graph: str = MAIN,
        state: State | None = None,
        rows: int | None = None,
    ) -> dict[str, Tensor]:
        """Return what `run` does and every intermediate stage, in the order of computation."""
        tensors = {name: torch.from_numpy(array).to(self._device) for name, array in inputs.items()}
        if state is not None:
            assert isinstance(state, KeptTensors)
            tensors |= self.taken(graph, state, rows)
        with torch.inference_mode():
            stages = self.model.graph_stages(graph, **tensors)
        if state is not None:
            state.keep(graph, stages)
        return stages

    def taken(
        self, graph: str, state: KeptTensors[Tensor], rows: int | None = None
    ) -> dict[str, Tensor]:
        """Return what a graph takes and reads, by its inputs' names; of free rows the first so many."""
        sources = state.sources(graph)
        return first_rows(self._graphs[graph], sources, lambda tensor: tensor[:, :rows])

    def open_state(self) -> KeptTensors[Tensor]:
        """Return the state of a new stream."""
        device = self._device
        return KeptTensors(
            self._graphs,
            to_host=_to_host,
            from_host=lambda _name, array: torch.from_numpy(array.copy()).to(device),
        )

    def describe(self) -> dict[str, Any]:
        """Return what runs where, for reports: version, device, threads."""
        return {
            "engine": "torch",
            "version": torch.__version__,
            "provider": str(self._device),
            "threads": torch.get_num_threads(),
        }

    @property
    def _device(self) -> torch.device:
        return next((value.device for value in self.model.parameters()), torch.device("cpu"))

    def close(self) -> None:
        """Do nothing: the model belongs to the caller."""


def torch_predictor(model: ReferenceModel) -> Predictor[Any]:
    """Return ``model`` behind the runtime's own pre- and post-processing, with all shapes it has."""
    variants = get_spec(model.name).variants(model)
    manifest = with_variants(
        model_manifest(model), {name: model_manifest(shaped) for name, shaped in variants.items()}
    )
    models = [model, *variants.values()]

    def open_route(view: Manifest) -> Route[Any]:
        return Route.of(
            view, create_task(view), TorchBackend(models[manifest.views.index(view)], view)
        )

    own = open_route(manifest.views[0])
    return Predictor(manifest, own.task, own.backend, open_variant=open_route)


def _to_host(tensor: Tensor) -> Any:
    return tensor.cpu().numpy()
