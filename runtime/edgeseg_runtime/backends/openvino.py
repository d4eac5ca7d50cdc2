"""Run a bundle's model with OpenVINO, on the processors of Intel and AMD."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgeseg_runtime.backends import Tensors
from edgeseg_runtime.errors import (
    BackendError,
    BackendUnavailable,
    EngineBuildError,
    InputContractError,
    OutOfMemory,
)
from edgeseg_runtime.manifest import Manifest, read_artifact
from edgeseg_runtime.onnx_inline import inline_functions

__all__ = ["OpenVinoBackend"]


class OpenVinoBackend:
    """A model that OpenVINO has compiled for one device, from verified bytes.

    `run` may be called from several threads at once: each call takes an infer request of its own,
    and they are kept for later calls.

    Args:
        folder: the bundle.
        manifest: its manifest.
        threads: threads of the CPU, or None for OpenVINO's choice.
        verify: compare the model's sha256 with the manifest.
        device: one of OpenVINO's names, such as "CPU" or "GPU" (Intel's graphics). A device that
            is not there is an error, never a silent run on another one.
        precision: arithmetic of what the graph leaves in floating point: "f32" gives what the
            other engines give. Left to OpenVINO (None) it is bfloat16 on recent Xeons and float16
            on graphics.

    Raises:
        BundleError: if the model is missing, damaged, or refers to files outside of itself.
        BackendUnavailable: if there is no such device.
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
    ) -> None:
        import openvino

        artifact = manifest.artifact("onnx")
        onnx = read_artifact(folder, artifact, verify=verify)
        onnx = inline_functions(onnx, file=artifact.file)
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if precision is not None:
            config["INFERENCE_PRECISION_HINT"] = precision
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        _check_device(device, core.available_devices)
        with _translated(f"cannot run {artifact.file}", EngineBuildError):
            self._model = core.compile_model(core.read_model(onnx), device, config)
        self._version: str = openvino.__version__.partition("-")[0]
        self._lock = threading.Lock()
        self._idle_requests: list[Any] = []
        self._output_names = [output.get_any_name() for output in self._model.outputs]

    @classmethod
    def obstacle(cls, folder: Path, manifest: Manifest) -> str | None:
        """Return why this bundle cannot run here, or None; see `BackendClass`."""
        try:
            import openvino  # noqa: F401
        except ImportError as error:
            return f"openvino cannot be imported ({error})"
        return None if "onnx" in manifest.artifacts else f"{folder} holds no ONNX model"

    def run(self, inputs: Tensors) -> Tensors:
        """Return the outputs by name, in fresh arrays that belong to the caller.

        Raises:
            InputContractError: if OpenVINO refuses the inputs.
            OutOfMemory: if memory is exhausted.
            BackendError: if an operator fails.
        """
        model = self._model  # `close` in another thread must not take it away half-way
        if model is None:
            raise ValueError("the backend is closed; load the bundle again")
        _check_inputs(inputs, model.inputs)
        with self._lock:
            request = self._idle_requests.pop() if self._idle_requests else None
        with _translated("failed in the middle of the model", BackendError):
            if request is None:
                request = model.create_infer_request()
            # Shared inputs are read in place; outputs are copied out of the request's memory.
            outputs = request.infer(inputs, share_inputs=True, share_outputs=False)
            arrays = [outputs[index] for index in range(len(self._output_names))]
        with self._lock:
            if self._model is not None:
                self._idle_requests.append(request)
        return dict(zip(self._output_names, arrays, strict=True))

    def describe(self) -> dict[str, Any]:
        """Return what ran where, for reports: version, device, threads, nodes per precision."""
        model = self._model
        return {
            "engine": "openvino",
            "version": self._version,
            "provider": ", ".join(model.get_property("EXECUTION_DEVICES")) if model else None,
            "num_nodes": _num_nodes_by_precision(model) if model else {},
            "threads": model.get_property("INFERENCE_NUM_THREADS") if model else None,
        }

    def close(self) -> None:
        """Free the model; a call of `run` that is under way still ends."""
        with self._lock:
            self._model = None
            self._idle_requests.clear()


def _check_device(wanted: str, available: list[str]) -> None:
    # A kind such as GPU stands for its first device, GPU.0.
    if not any(wanted in (name, name.partition(".")[0]) for name in available):
        raise BackendUnavailable(
            f"OpenVINO here has no device {wanted!r}, only {', '.join(available)}. Install the "
            "driver of that device, or leave `device` out to run on the CPU."
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
