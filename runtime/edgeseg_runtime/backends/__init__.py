"""Engines behind one narrow interface: named arrays in, named arrays out.

    Backend              what an engine must offer: run, open_state, close
    State                what stays with an engine between the graphs of a stream
    BACKENDS             name -> "module:class", imported on first use
    open_backend         opens one for a bundle, checks what goes in and out of it
    CheckedBackend       the wrapper that does the checking

A backend class is called as `Class(folder, manifest, threads=..., verify=..., **options)`; its
options are the other keyword-only arguments of its `__init__`. It imports its engine's library
inside its methods and lets `ImportError` pass: it is translated here. Its classmethod
`obstacle(folder, manifest)` says, without loading the model, why it cannot serve a bundle on this
machine.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.bundle.graphs import MAIN, Graph, TensorSpec
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.errors import (
    BackendUnavailable,
    EngineBuildError,
    InputContractError,
    NonFiniteOutput,
    OutOfMemory,
    OutputContractError,
)
from edgeseg_runtime.pickling import Unpicklable

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendClass",
    "CheckedBackend",
    "State",
    "Tensors",
    "missing_graph",
    "open_backend",
]

Tensors = dict[str, npt.NDArray[Any]]

BACKENDS: dict[str, str] = {
    "onnxruntime": "edgeseg_runtime.backends.ort:OrtBackend",
    "openvino": "edgeseg_runtime.backends.openvino:OpenVinoBackend",
    "tensorrt": "edgeseg_runtime.tensorrt.backend:TrtBackend",
    "tensorrt_rtx": "edgeseg_runtime.tensorrt.backend:TrtRtxBackend",
}

# Never "pip install edgeseg-runtime[...]": on a Jetson that would replace JetPack's own build.
INSTALL_HINTS: dict[str, str] = {
    "onnxruntime": "pip install onnxruntime  (or onnxruntime-gpu; on a Jetson the wheel of its JetPack)",
    "openvino": "pip install openvino",
    "tensorrt": "pip install tensorrt  (on a Jetson: sudo apt install python3-libnvinfer)",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13",
}

_AUTO_ORDER = ("tensorrt", "tensorrt_rtx")  # tried before those that run on every CPU
_AUTO_CPU = ("onnxruntime", "openvino")

_log = logging.getLogger(__name__)


class State(Protocol):
    """The tensors of one stream that stay where the engine is.

    Those that it carries from frame to frame stand under their own names; those that one graph of
    a frame takes from another one as "graph.output".
    """

    def fetch(self) -> Tensors:
        """Return copies of all tensors, by name."""
        ...

    def put(self, values: Tensors) -> None:
        """Replace tensors by copies of these, by name.

        Raises:
            ValueError: if the model keeps no tensor of a name, or one of another dtype or shape.
        """
        ...

    def close(self) -> None:
        """Free the tensors; calling it twice is allowed."""
        ...


class Backend(Protocol):
    """A loaded model, shared by all streams; it holds the state of none of them."""

    def run(
        self,
        inputs: Tensors,
        graph: str = MAIN,
        state: State | None = None,
        rows: int | None = None,
    ) -> Tensors:
        """Return what results are read from of a graph's outputs, by name.

        The arrays belong to the caller. Returns only when they are complete, so that a clock around
        it is honest. May be called from several threads at once, each with a state of its own. A
        call that fails leaves each of the state's tensors as it was, or takes it away: none is
        ever half written.

        Args:
            inputs: what the picture gives the graph.
            graph: its name in the manifest.
            state: from `open_state`; for a graph that takes, reads or writes something.
            rows: instances to run a stage for, 1 up to its maximum; of what it takes the first
                so many. None for a graph without rows.
        """
        ...

    def open_state(self) -> State:
        """Return the state of a new stream: nothing yet."""
        ...

    def close(self) -> None:
        """Free the engine; calling it twice is allowed."""
        ...


class BackendClass(Protocol):
    """What an entry of `BACKENDS` leads to."""

    def __call__(
        self, folder: Path, manifest: Manifest, *, threads: int | None, verify: bool, **options: Any
    ) -> Backend:
        """Load the bundle's model."""
        ...

    def obstacle(self, folder: Path, manifest: Manifest) -> str | None:
        """Return why this backend cannot serve the bundle here and now, or None if it can."""
        ...


def open_backend(
    name: str,
    folder: str | os.PathLike[str],
    manifest: Manifest,
    *,
    threads: int | None = None,
    verify: bool = True,
    strict: bool = False,
    **options: Any,
) -> CheckedBackend:
    """Load a bundle's model into an engine.

    Args:
        name: a key of `BACKENDS`, or "auto": TensorRT if the device has it together with an
            engine for this bundle or the means to build one, else onnxruntime, or openvino
            where that alone is installed. The choice is logged and stands in the `name` of what
            is returned.
        folder: the bundle.
        manifest: its manifest.
        threads: threads of the engine on the CPU, or None for the engine's own choice.
        verify: compare the sha256 of every file with the manifest before an engine sees it.
        strict: see `CheckedBackend`.
        **options: of the backend; "auto" gives each backend those that it knows.

    Raises:
        ValueError: if there is no backend of that name, or it does not know an option; for "auto",
            if no backend knows it.
        BackendUnavailable: if its library is not installed or its device is missing.
        BundleError: if a file is missing or damaged.
        OutOfMemory: if the model does not fit into memory.
    """
    path = Path(folder)
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}; expected a positive number or None")
    if name not in ("auto", *BACKENDS):
        raise ValueError(f"backend is {name!r}; expected one of auto, {', '.join(BACKENDS)}")
    _check_options((*_AUTO_ORDER, *_AUTO_CPU) if name == "auto" else (name,), options)
    common = {"threads": threads, "verify": verify}
    if name == "auto":
        name, backend = _open_auto(path, manifest, common, options)
    else:
        backend = _open(name, path, manifest, {**common, **options})
    return CheckedBackend(name, backend, manifest, strict=strict)


def missing_graph(folder: Path, manifest: Manifest) -> str | None:
    """Return that the bundle lists no file for one of its graphs, or None; see `BackendClass`."""
    artifacts = (graph.artifact for graph in manifest.graphs.values())
    missing = next((name for name in artifacts if name not in manifest.artifacts), None)
    return None if missing is None else f"{folder} holds no ONNX model {missing!r}"


class CheckedBackend(Unpicklable):
    """A backend that compares every tensor with the manifest on its way in and out.

    Attributes:
        name: of the backend, such as "onnxruntime".
        backend: the backend itself.
        manifest: what the tensors are compared with.
        strict: whether an output with a NaN or an infinite number is an error.
    """

    def __init__(
        self, name: str, backend: Backend, manifest: Manifest, *, strict: bool = False
    ) -> None:
        self.name = name
        self.backend = backend
        self.manifest = manifest
        self.strict = strict
        self._is_closed = False

    def run(
        self,
        inputs: Tensors,
        graph: str = MAIN,
        state: State | None = None,
        rows: int | None = None,
    ) -> Tensors:
        """Return the outputs of a graph that results are read from; see `Backend.run`.

        Without a row a stage is not run: its outputs have none.

        Raises:
            InputContractError: if an input is missing, unknown, or of another dtype or shape.
            OutputContractError: if the model's outputs are not those of the manifest.
            NonFiniteOutput: if an output holds a NaN or an infinite number and this is `strict`.
            OutOfMemory: if the host's memory is exhausted.
            ValueError: if the backend is closed, there is no such graph, or rows or state do not
                fit it.
        """
        if self._is_closed:
            raise ValueError(f"the {self.name} backend is closed; load the bundle again")
        border = self.manifest.graphs.get(graph)
        if border is None:
            known = ", ".join(self.manifest.graphs)
            raise ValueError(f"graph is {graph!r}; {self.manifest.name} has {known}")
        _check_call(graph, border, state, rows)
        checked = _check_inputs(inputs, border.fed)
        batch = next((array.shape[0] for array in checked.values() if array.ndim), None)
        if rows == 0:
            shapes = {spec: _shape(spec, batch or 1, 0) for spec in border.given}
            return {spec.name: np.zeros(shape, spec.dtype) for spec, shape in shapes.items()}
        try:
            outputs = self.backend.run(checked, graph, state, rows)
        except MemoryError as error:
            raise OutOfMemory(_out_of_memory(self.name)) from error
        found = _check_outputs(outputs, border.given, batch, rows)
        if self.strict:
            _check_finite(found)
        return found

    def open_state(self) -> State | None:
        """Return the state of a new stream, or None for a model that keeps nothing."""
        if self._is_closed:
            raise ValueError(f"the {self.name} backend is closed; load the bundle again")
        needs_state = any(graph.needs_state for graph in self.manifest.graphs.values())
        return self.backend.open_state() if needs_state else None

    def describe(self) -> dict[str, Any]:
        """Return what runs where, for reports: at least `engine`, and what the backend knows.

        `num_nodes` counts the model's nodes by where, or in which precision, they run.
        """
        describe = getattr(self.backend, "describe", dict)
        return {"engine": self.name, **describe()}

    def close(self) -> None:
        """Free the engine; calling it twice is allowed."""
        if not self._is_closed:
            self._is_closed = True
            self.backend.close()

    def __repr__(self) -> str:
        return f"CheckedBackend({self.name!r}, {self.backend!r})"


def _option_names(name: str) -> list[str]:
    """Return the options of a backend, beside those that every backend has."""
    parameters = inspect.signature(_backend_class(name)).parameters.values()
    names = [item.name for item in parameters if item.kind is inspect.Parameter.KEYWORD_ONLY]
    return [item for item in names if item not in ("threads", "verify")]


def _check_options(names: Sequence[str], options: Mapping[str, Any]) -> None:
    """Refuse an option that none of these backends knows."""
    known = {name: _option_names(name) for name in names}
    for option in options:
        if not any(option in taken for taken in known.values()):
            texts = [f"{name} takes {', '.join(taken) or 'none'}" for name, taken in known.items()]
            raise ValueError(f"{option!r} is not an option of any backend; {'; '.join(texts)}")


def _open_auto(
    folder: Path, manifest: Manifest, common: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[str, Backend]:
    """Return the first backend that can serve, after its name."""
    for name in _AUTO_ORDER:
        obstacle = _obstacle(name, folder, manifest)
        if obstacle is not None:
            _log.info("backend auto: not %s, because %s", name, obstacle)
            continue
        backend = _try_open(name, folder, manifest, {**common, **_known_options(name, options)})
        if backend is not None:
            _log.info("backend auto: %s", name)
            return name, backend
    usable = [name for name in _AUTO_CPU if _obstacle(name, folder, manifest) is None]
    chosen = (usable or _AUTO_CPU)[0]  # the first one's error says what to install
    _log.info("backend auto: %s", chosen)
    return chosen, _open(chosen, folder, manifest, {**common, **_known_options(chosen, options)})


def _known_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the options that a backend knows; the others are for another one."""
    names = _option_names(name)
    for option in options:
        if option not in names:
            _log.info("backend auto: %s has no option %s", name, option)
    return {option: value for option, value in options.items() if option in names}


def _obstacle(name: str, folder: Path, manifest: Manifest) -> str | None:
    try:
        return _backend_class(name).obstacle(folder, manifest)
    except (ImportError, BackendUnavailable) as error:
        return str(error)


def _try_open(
    name: str, folder: Path, manifest: Manifest, options: Mapping[str, Any]
) -> Backend | None:
    try:
        return _open(name, folder, manifest, options)
    except (BackendUnavailable, EngineBuildError) as error:
        _log.warning("backend auto: %s failed, trying the next one: %s", name, error)
        return None


def _open(name: str, folder: Path, manifest: Manifest, options: Mapping[str, Any]) -> Backend:
    try:
        return _backend_class(name)(folder, manifest, **options)
    except ImportError as error:
        raise BackendUnavailable(
            f"the backend {name!r} cannot be used here ({error}). Install it: {INSTALL_HINTS[name]}"
        ) from error
    except MemoryError as error:
        raise OutOfMemory(_out_of_memory(name)) from error


def _backend_class(name: str) -> BackendClass:
    module, _, attribute = BACKENDS[name].partition(":")
    return cast("BackendClass", getattr(importlib.import_module(module), attribute))


def _out_of_memory(name: str) -> str:
    return (
        f"{name}: the host's memory is exhausted. Close other programs, or export the model at a "
        "smaller --image-size or --precision."
    )


def _check_call(name: str, graph: Graph, state: State | None, rows: int | None) -> None:
    if graph.needs_state and state is None:
        raise ValueError(f"the graph {name!r} needs a state; give one from `open_state`")
    if graph.rows is None and rows is not None:
        raise ValueError(f"rows is {rows}; expected None, because {name!r} has no rows")
    if graph.rows is not None and (rows is None or not 0 <= rows <= graph.rows.maximum):
        raise ValueError(f"rows is {rows}; expected 0..{graph.rows.maximum} for {name!r}")


def _check_inputs(inputs: Tensors, specs: Sequence[TensorSpec]) -> Tensors:
    names = [spec.name for spec in specs]
    if set(inputs) != set(names):
        raise InputContractError(
            f"found the inputs {sorted(inputs)}; the model takes exactly {sorted(names)}"
        )
    checked: Tensors = {}
    batch: int | None = None
    for spec in specs:
        array = inputs[spec.name]
        problem = _difference(array, spec, batch)
        if problem:
            raise InputContractError(f"the input {spec.name!r} {problem}")
        batch = batch or next(iter(array.shape), None)
        checked[spec.name] = np.ascontiguousarray(array)
    return checked


def _check_outputs(
    outputs: Tensors, specs: Sequence[TensorSpec], batch: int | None, rows: int | None
) -> Tensors:
    for spec in specs:
        if spec.name not in outputs:
            raise OutputContractError(
                f"the model gave no output {spec.name!r}, only {sorted(outputs)}. "
                "Model and manifest do not belong together: export the bundle again."
            )
        problem = _difference(outputs[spec.name], spec, batch, rows)
        if problem:
            raise OutputContractError(
                f"the output {spec.name!r} {problem}. "
                "Model and manifest do not belong together: export the bundle again."
            )
    return {spec.name: outputs[spec.name] for spec in specs}


def _check_finite(outputs: Tensors) -> None:
    for name, array in outputs.items():
        num_bad = array.size - int(np.isfinite(array).sum())
        if num_bad:
            raise NonFiniteOutput(
                f"the output {name!r} holds {num_bad} NaN or infinite numbers of {array.size}; "
                "expected none, because the bundle was loaded with strict=True. Load it without "
                "to leave out what they concern, or export the model in fp32."
            )


def _difference(
    array: npt.NDArray[Any], spec: TensorSpec, batch: int | None, rows: int | None = None
) -> str | None:
    """Return how an array differs from its spec, or None."""
    if not isinstance(array, np.ndarray):
        return f"is a {type(array).__name__}; expected a NumPy array"
    found_batch = next(iter(array.shape), 1)
    if array.dtype == spec.dtype and array.shape == _shape(spec, batch or found_batch, rows):
        return None
    names = ("batch" if size == -1 else size for size in spec.shape[:1])
    more = (rows if size == -1 else size for size in spec.shape[1:])
    return (
        f"is {array.dtype} of shape {list(array.shape)}; expected {spec.dtype} of shape "
        f"[{', '.join(map(str, (*names, *more)))}]"
    )


def _shape(spec: TensorSpec, batch: int, rows: int | None) -> tuple[int, ...]:
    """Return a tensor's shape for a batch size and a number of rows."""
    free = (batch, batch if rows is None else rows)
    return tuple(free[axis] if size == -1 else size for axis, size in enumerate(spec.shape))
