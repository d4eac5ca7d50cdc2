"""Opens graphs in memory with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from edgeseg_export.onnx_model import OnnxModel
from edgeseg_runtime.backends import State, Tensors
from edgeseg_runtime.backends.state import KeptTensors, first_rows
from edgeseg_runtime.backends.winograd import with_winograd
from edgeseg_runtime.bundle.graphs import MAIN, Graph
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.libraries import import_library
from edgeseg_runtime.onnx.quantized import prepare_for_cpu
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.tasks import create_task

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Graphs = Mapping[str, OnnxModel]
"""The graphs of a model by their names in its manifest."""


def cpu_session(model: OnnxModel, *, keeps_order: bool = False) -> InferenceSession:
    """Return a session on the CPU that logs errors only; the graph runs as the runtime would run it.

    The engine is given the weights where they are.

    Args:
        model: complete.
        keeps_order: read the weights of convolutions in place, instead of a copy in the order that the
            processor likes best. It is slower, and needs no memory for them.
    """
    onnxruntime = import_library("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Several sessions take turns: none keeps what it has freed.
    options.enable_cpu_mem_arena = False
    values = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(value)
        for name, value in model.weights.items()
    }
    options.add_external_initializers(list(values), list(values.values()))
    if keeps_order:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        for name in _convolved(model) & values.keys():
            options.add_initializer(name, values[name])
    content = prepare_for_cpu(model.described().SerializeToString(), options)
    session: InferenceSession = onnxruntime.InferenceSession(
        content, options, providers=["CPUExecutionProvider"]
    )
    return session


def _convolved(model: OnnxModel) -> set[str]:
    """Return the initializers that convolutions alone read: no optimizer gives one of them another content."""
    read: set[str] = set()
    otherwise = {output.name for output in model.graph.output}
    for node in model.graph.node:
        is_convolution = not node.domain and node.op_type in {"Conv", "ConvTranspose"}
        read |= {name for name in node.input[1:2] if is_convolution}
        otherwise |= {name for i, name in enumerate(node.input) if i != 1 or not is_convolution}
    return read - otherwise


class GraphBackend:
    """Runs graphs that are in memory, on the CPU.

    Args:
        graphs: by name; they may give more than the manifest lists.
        manifest: says what passes between them.
        open_session: opens one of them.
        as_loaded: in the form in which the runtime runs them, see `backends.winograd`.
    """

    def __init__(
        self,
        graphs: Graphs,
        manifest: Manifest,
        *,
        open_session: Callable[[OnnxModel], Any] = cpu_session,
        as_loaded: bool = False,
    ) -> None:
        if as_loaded:
            graphs = {
                name: _as_loaded(graph, manifest.graphs[name]) for name, graph in graphs.items()
            }
        self._graphs = manifest.graphs
        self._models = dict(graphs)  # an engine may read their weights in place
        self._sessions = {name: open_session(graph) for name, graph in graphs.items()}

    def run(
        self,
        inputs: Tensors,
        graph: str = MAIN,
        state: State | None = None,
        rows: int | None = None,
    ) -> Tensors:
        """Return all outputs of a graph by name; see `Backend.run`."""
        if state is None:
            return self.run_whole(inputs, graph)
        assert isinstance(state, KeptTensors)
        sources = state.sources(graph)
        taken = first_rows(self._graphs[graph], sources, lambda array: array[:, :rows])
        outputs = self.run_whole(inputs | taken, graph)
        state.keep(graph, outputs)
        return outputs

    def run_whole(self, feed: Tensors, graph: str = MAIN) -> Tensors:
        """Return all outputs of a graph by name, given all of its inputs."""
        session = self._sessions[graph]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, feed), strict=True))

    def open_state(self) -> KeptTensors[npt.NDArray[Any]]:
        """Return the state of a new stream."""
        return KeptTensors(self._graphs, to_host=np.copy, from_host=_copied)

    def close(self) -> None:
        """Do nothing: the sessions go with the object."""


def _as_loaded(model: OnnxModel, graph: Graph) -> OnnxModel:
    """Return a model with those convolutions in Winograd's form that the runtime computes so."""
    skeleton = model.proto.SerializeToString()
    rewritten, _ = with_winograd(skeleton, graph, "onnxruntime", None, shares_weights=True)
    return OnnxModel(onnx.ModelProto.FromString(rewritten), model.weights)


def _copied(_name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.copy()


def graphs_predictor(graphs: Graphs, manifest: Manifest) -> Predictor[Any]:
    """Return graphs behind the runtime's own pre- and post-processing."""
    return Predictor(manifest, create_task(manifest), GraphBackend(graphs, manifest))
