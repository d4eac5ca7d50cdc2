"""Run a bundle's graphs with OpenVINO, on the processors of Intel and AMD."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.backends import State, Tensors, missing_graph
from edgeseg_runtime.backends.state import ExchangedTensors, Value, first_rows
from edgeseg_runtime.backends.winograd import check_winograd, with_winograd
from edgeseg_runtime.bundle.graph_files import read_graph
from edgeseg_runtime.bundle.graphs import MAIN, Graph, staying_outputs
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.errors import (
    BackendError,
    BackendUnavailable,
    EngineBuildError,
    InputContractError,
    OutOfMemory,
)
from edgeseg_runtime.libraries import import_library
from edgeseg_runtime.onnx.inline import inline_functions
from edgeseg_runtime.pickling import Unpicklable

__all__ = ["OpenVinoBackend"]

_CAPABILITIES = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}
"""Precision -> how OpenVINO calls it among what a device can do."""


class OpenVinoBackend(Unpicklable):
    """Graphs that OpenVINO has compiled for one device, from verified bytes.

    `run` may be called from several threads at once: each call takes an infer request of its own,
    and they are kept for later calls; a state has requests of its own.

    Args:
        folder: the bundle.
        manifest: its manifest.
        threads: threads of the CPU, or None for OpenVINO's choice.
        verify: compare the model's sha256 with the manifest.
        device: one of OpenVINO's names, such as "CPU" or "GPU" (Intel's graphics). A device that
            is not there is an error, never a silent run on another one.
        precision: arithmetic of what the graph leaves in floating point: "f32" gives what the
            other engines give; "bf16" and "f16" are faster where the processor has them. Left to
            OpenVINO (None) it is bfloat16 on recent Xeons and EPYCs and float16 on ARM and graphics.
        allow_operators: operators that the caller vouches for, see `onnx.check.check_graph`.
        winograd: "auto" computes those 3x3 convolutions in Winograd's form that were measured to be faster
            so, on the CPU and in "f32": sums of its terms would lose too much in fewer bits. "off" none.

    Raises:
        BundleError: if the model is missing, damaged, or holds what no bundle may hold.
        BackendUnavailable: if there is no such device, or it does not compute in that precision.
        ValueError: if there is no such precision.
        EngineBuildError: if OpenVINO cannot run the model.
        OutOfMemory: if memory is exhausted.
        ImportError: if openvino is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        manifest: Manifest,
        *,
        threads: int | None = None,
        verify: bool = True,
        device: str = "CPU",
        precision: str | None = "f32",
        allow_operators: Collection[str] = (),
        winograd: str = "auto",
    ) -> None:
        if precision not in (None, *_CAPABILITIES):
            known = ", ".join(map(repr, _CAPABILITIES))
            raise ValueError(f"precision is {precision!r}; expected {known} or None")
        openvino = import_library("openvino")
        check_winograd(winograd)
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if precision is not None:
            config["INFERENCE_PRECISION_HINT"] = precision
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        _check_device(device, core.available_devices)
        if precision is not None:
            _check_precision(
                precision, device, core.get_property(device, "OPTIMIZATION_CAPABILITIES")
            )
        self._graphs = manifest.graphs
        self._models: dict[str, Any] = {}
        self._num_winograd = 0
        for name, graph in manifest.graphs.items():
            file = manifest.artifact(graph.artifact).file
            onnx = read_graph(
                folder, manifest, name, verify=verify, allow_operators=allow_operators
            )
            onnx = inline_functions(onnx, file=file)
            if winograd == "auto" and device == "CPU" and precision == "f32":
                onnx, num_rewritten = with_winograd(onnx, graph, "openvino", threads)
                self._num_winograd += num_rewritten
            with _translated(f"cannot run {file}", EngineBuildError):
                self._models[name] = core.compile_model(core.read_model(onnx), device, config)
        # What was asked for is a hint to OpenVINO; this is what it does.
        used = next(iter(self._models.values())).get_property("INFERENCE_PRECISION_HINT")
        self._precision: str = used.get_type_name()
        self._make_tensor = openvino.Tensor
        self._version: str = openvino.__version__.partition("-")[0]
        self._lock = threading.Lock()
        self._idle_requests: dict[str, list[Any]] = {name: [] for name in manifest.graphs}

    @classmethod
    def obstacle(cls, folder: Path, manifest: Manifest) -> str | None:
        """Return why this bundle cannot run here, or None; see `BackendClass`."""
        try:
            import_library("openvino")
        except ImportError as error:
            return f"openvino cannot be imported ({error})"
        return missing_graph(folder, manifest)

    def run(
        self,
        inputs: Tensors,
        graph: str = MAIN,
        state: State | None = None,
        rows: int | None = None,
    ) -> Tensors:
        """Return the outputs by name, in fresh arrays that belong to the caller; see `Backend.run`.

        Raises:
            InputContractError: if OpenVINO refuses the inputs.
            OutOfMemory: if memory is exhausted.
            BackendError: if an operator fails.
        """
        model = self._models.get(graph)  # `close` in another thread must not take it half-way
        if model is None:
            raise ValueError("the backend is closed; load the bundle again")
        inputs = self._used(inputs, graph, model)
        _check_inputs(inputs, [port for port in model.inputs if port.get_any_name() in inputs])
        if state is not None:
            assert isinstance(state, _State)
            return self._run_with_state(model, inputs, graph, state, rows)
        names = [spec.name for spec in self._graphs[graph].outputs]
        with self._lock:
            idle = self._idle_requests[graph]
            request = idle.pop() if idle else None
        with _translated("failed in the middle of the model", BackendError):
            if request is None:
                request = model.create_infer_request()
            # Shared inputs are read in place; outputs are copied out of the request's memory.
            outputs = request.infer(inputs, share_inputs=True, share_outputs=False)
            arrays = [outputs[name] for name in names]
        with self._lock:
            if self._models:
                idle.append(request)
        return dict(zip(names, arrays, strict=True))

    def _used(self, inputs: Mapping[str, Value], graph: str, model: Any) -> dict[str, Value]:
        """Return the inputs without those of the bundle that no output depends on: OpenVINO drops them."""
        left = {port.get_any_name() for port in model.inputs}
        dropped = {spec.name for spec in self._graphs[graph].inputs} - left
        return {name: array for name, array in inputs.items() if name not in dropped}

    def _run_with_state(
        self, model: Any, inputs: Tensors, name: str, state: _State, rows: int | None
    ) -> Tensors:
        """Run a graph in its state's own request, on the state's own tensors."""
        graph, staying = self._graphs[name], staying_outputs(self._graphs, name)
        fixed = {output for output in staying if not graph.output(output).has_free_axis}
        sources = first_rows(
            graph,
            self._used(state.sources(name), name, model),
            lambda tensor: self._make_tensor(np.ascontiguousarray(tensor.data[:, :rows])),
        )
        targets = state.targets(name, fixed)
        try:
            with _translated("failed in the middle of the model", BackendError):
                request = state.request(name, model)
                for wanted, array in inputs.items():
                    request.set_tensor(wanted, self._make_tensor(array, shared_memory=True))
                for wanted, tensor in {**sources, **targets}.items():
                    request.set_tensor(wanted, tensor)
                request.infer()
                found = {spec.name: request.get_tensor(spec.name) for spec in graph.outputs}
        except BaseException:
            state.spoil(targets)
            raise
        # The memory of a tensor with a free axis is the request's, for one run.
        copies = {output: self._make_tensor(found[output].data) for output in staying - fixed}
        state.keep(name, {**copies, **targets})
        return {spec.name: found[spec.name].data.copy() for spec in graph.given}

    def open_state(self) -> State:
        """Return the state of a new stream."""
        return _State(self._graphs, self._models, self._make_tensor)

    def describe(self) -> dict[str, Any]:
        """Return what ran where, for reports: version, device, threads, nodes per precision.

        `num_winograd` counts the convolutions in Winograd's form.
        """
        models = list(self._models.values())
        counts: Counter[str] = Counter()
        for model in models:
            counts.update(_num_nodes_by_precision(model))
        return {
            "engine": "openvino",
            "version": self._version,
            "provider": ", ".join(models[0].get_property("EXECUTION_DEVICES")) if models else None,
            "precision": self._precision,
            "num_nodes": dict(counts.most_common()),
            "num_winograd": self._num_winograd,
            "threads": models[0].get_property("INFERENCE_NUM_THREADS") if models else None,
        }

    def close(self) -> None:
        """Free the models; a call of `run` that is under way still ends."""
        with self._lock:
            self._models = {}
            for idle in self._idle_requests.values():
                idle.clear()


class _State(ExchangedTensors[Any]):
    """Tensors and infer requests of one stream."""

    def __init__(
        self,
        graphs: Mapping[str, Graph],
        models: Mapping[str, Any],
        make_tensor: Callable[..., Any],
    ) -> None:
        def allocate(name: str, output: str) -> Any:
            port = models[name].output(output)
            return make_tensor(port.get_element_type(), port.get_shape())

        super().__init__(
            graphs,
            to_host=lambda tensor: tensor.data.copy(),
            fill=lambda tensor, array: np.copyto(tensor.data, array),
            allocate=allocate,
        )
        self._make_tensor = make_tensor
        self._requests: dict[str, Any] = {}

    def request(self, name: str, model: Any) -> Any:
        """Return this state's infer request of a graph."""
        if name not in self._requests:
            self._requests[name] = model.create_infer_request()
        return self._requests[name]

    def _filled(self, key: str, array: npt.NDArray[Any]) -> Any:
        _, spec = self._origin(key)
        return self._make_tensor(array) if spec.has_free_axis else super()._filled(key, array)

    def close(self) -> None:
        """Free tensors and requests; calling it twice is allowed."""
        super().close()
        self._requests = {}


def _check_device(wanted: str, available: list[str]) -> None:
    # A kind such as GPU stands for its first device, GPU.0.
    if not any(wanted in (name, name.partition(".")[0]) for name in available):
        raise BackendUnavailable(
            f"OpenVINO here has no device {wanted!r}, only {', '.join(available)}. Install the "
            "driver of that device, or leave `device` out to run on the CPU."
        )


def _check_precision(wanted: str, device: str, found: Sequence[str]) -> None:
    # OpenVINO takes the hint for what the device lacks, and computes in float32 in silence.
    if wanted != "f32" and _CAPABILITIES[wanted] not in found:
        raise BackendUnavailable(
            f"OpenVINO's device {device} does not compute in {wanted} here: it has {', '.join(found)}. "
            "bf16 needs a processor with avx512_bf16 or amx_bf16, f16 one with amx_fp16 or ARM's fp16; "
            "openvino without a precision computes in float32 everywhere."
        )


def _check_inputs(inputs: Tensors, ports: Sequence[Any]) -> None:
    """Refuse what OpenVINO would convert in silence: a float picture, say, cut to whole levels."""
    names = [port.get_any_name() for port in ports]
    if set(inputs) != set(names):
        raise InputContractError(f"found the inputs {sorted(inputs)}; expected {sorted(names)}")
    for name, port in zip(names, ports, strict=True):
        array, dtype, sizes = inputs[name], port.get_element_type().to_dtype(), port.partial_shape
        fits = len(sizes) == array.ndim and all(
            size.is_dynamic or size.get_length() == found
            for size, found in zip(sizes, array.shape, strict=True)
        )
        if array.dtype != dtype or not fits:
            raise InputContractError(
                f"the input {name!r} is {array.dtype} of shape {list(array.shape)}; the model "
                f"takes {dtype} of shape {sizes}"
            )


def _num_nodes_by_precision(model: Any) -> dict[str, int]:
    """Count the compiled nodes by the precision in which they really compute."""
    counts = Counter(
        node.get_rt_info()["runtimePrecision"].astype(str)
        for node in model.get_runtime_model().get_ops()
        if "runtimePrecision" in node.get_rt_info()
    )
    return dict(counts.most_common())


# OpenVINO raises RuntimeError for everything of its own. Nothing else in edgeseg looks at it.


@contextlib.contextmanager
def _translated(what: str, kind: type[BackendError]) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise _out_of_memory(str(error)) from error
    except RuntimeError as error:
        text = " ".join(str(error).split())[-500:]
        if "bad_alloc" in text or "out of memory" in text.lower():
            raise _out_of_memory(text) from error
        raise kind(
            f"OpenVINO {what}: {text}. Upgrade it (pip install -U openvino), or use "
            "backend='onnxruntime'."
        ) from error


def _out_of_memory(text: str) -> OutOfMemory:
    return OutOfMemory(
        f"OpenVINO ran out of memory ({text}). Close other programs, or export the model at a "
        "smaller --image-size."
    )
