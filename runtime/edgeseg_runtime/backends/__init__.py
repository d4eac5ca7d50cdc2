"""Engines behind one narrow interface: named arrays in, named arrays out.

    Backend              what an engine must offer: run, close
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

from edgeseg_runtime.errors import (
    BackendUnavailable,
    EngineBuildError,
    InputContractError,
    NonFiniteOutput,
    OutOfMemory,
    OutputContractError,
)
from edgeseg_runtime.manifest import Manifest, TensorSpec

__all__ = ["BACKENDS", "Backend", "BackendClass", "CheckedBackend", "Tensors", "open_backend"]

Tensors = dict[str, npt.NDArray[Any]]

BACKENDS: dict[str, str] = {
    "onnxruntime": "edgeseg_runtime.backends.ort:OrtBackend",
    "openvino": "edgeseg_runtime.backends.openvino:OpenVinoBackend",
    "tensorrt": "edgeseg_runtime.backends.trt:TrtBackend",
    "tensorrt_rtx": "edgeseg_runtime.backends.trt:TrtRtxBackend",
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


class Backend(Protocol):
    """A loaded model."""

    def run(self, inputs: Tensors) -> Tensors:
        """Return the model's outputs by name; the arrays belong to the caller.

        Returns only when the outputs are complete, so that a clock around it is honest. May be
        called from several threads at once.
        """
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


class CheckedBackend:
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

    def run(self, inputs: Tensors) -> Tensors:
        """Return the outputs that the manifest lists.

        Raises:
            InputContractError: if an input is missing, unknown, or of another dtype or shape.
            OutputContractError: if the model's outputs are not those of the manifest.
            NonFiniteOutput: if an output holds a NaN or an infinite number and this is `strict`.
            OutOfMemory: if the host's memory is exhausted.
            ValueError: if the backend is closed.
        """
        if self._is_closed:
            raise ValueError(f"the {self.name} backend is closed; load the bundle again")
        checked = _check_inputs(inputs, self.manifest.inputs)
        try:
            outputs = self.backend.run(checked)
        except MemoryError as error:
            raise OutOfMemory(_out_of_memory(self.name)) from error
        batch_size = next(iter(checked.values())).shape[:1]
        found = _check_outputs(outputs, self.manifest.outputs, batch_size)
        if self.strict:
            _check_finite(found)
        return found

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
            raise ValueError(f"{option!r} is no option of a backend; {'; '.join(texts)}")


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


def _check_inputs(inputs: Tensors, specs: Sequence[TensorSpec]) -> Tensors:
    names = [spec.name for spec in specs]
    if set(inputs) != set(names):
        raise InputContractError(
            f"found the inputs {sorted(inputs)}; the model takes exactly {sorted(names)}"
        )
    checked: Tensors = {}
    batch_size: tuple[int, ...] | None = None
    for spec in specs:
        array = inputs[spec.name]
        problem = _difference(array, spec, batch_size)
        if problem:
            raise InputContractError(f"the input {spec.name!r} {problem}")
        batch_size = batch_size or array.shape[:1]
        checked[spec.name] = np.ascontiguousarray(array)
    return checked


def _check_outputs(
    outputs: Tensors, specs: Sequence[TensorSpec], batch_size: tuple[int, ...]
) -> Tensors:
    for spec in specs:
        if spec.name not in outputs:
            raise OutputContractError(
                f"the model gave no output {spec.name!r}, only {sorted(outputs)}. "
                "Model and manifest do not belong together: export the bundle again."
            )
        problem = _difference(outputs[spec.name], spec, batch_size)
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
    array: npt.NDArray[Any], spec: TensorSpec, batch_size: tuple[int, ...] | None
) -> str | None:
    """Return how an array differs from its spec, or None."""
    if not isinstance(array, np.ndarray):
        return f"is a {type(array).__name__}; expected a NumPy array"
    shape = spec.shape
    if shape[:1] == (-1,):
        shape = (batch_size or array.shape[:1] or (1,)) + shape[1:]
    if array.dtype != spec.dtype or array.shape != shape:
        expected = ", ".join("batch" if size == -1 else str(size) for size in spec.shape)
        return (
            f"is {array.dtype} of shape {list(array.shape)}; expected {spec.dtype} of shape "
            f"[{expected}]"
        )
    return None
