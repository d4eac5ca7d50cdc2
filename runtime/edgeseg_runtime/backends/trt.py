"""Run a bundle's model with TensorRT or TensorRT-RTX."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgeseg_runtime import cuda, engines, trt_compat
from edgeseg_runtime.backends import Tensors
from edgeseg_runtime.engines import EngineFile, EngineOptions
from edgeseg_runtime.errors import (
    BackendError,
    DeviceLost,
    EdgesegError,
    EngineBuildError,
    InputContractError,
    OutOfMemory,
)
from edgeseg_runtime.manifest import Manifest, read_artifact
from edgeseg_runtime.trt_compat import Progress

__all__ = ["EngineSession", "TrtBackend", "TrtRtxBackend"]

_logger = logging.getLogger(__name__)


class TrtBackend:
    """A TensorRT engine on one GPU.

    The engine comes from the cache of this user or from `engines`, and is built if neither has
    one: that takes minutes, so run `edgeseg build` beforehand. What TensorRT refuses to load is
    thrown away and built again, once.

    `run` may be called from several threads; a TensorRT context serves one call at a time, so
    they wait for each other. For parallel work load the bundle once per thread.

    Args:
        folder: the bundle.
        manifest: its manifest.
        threads: has no effect: the work is done on the GPU.
        verify: compare the model's sha256 with the manifest.
        device: CUDA ordinal.
        engines_folder: folder of engines that you built and trust, such as the output of
            `edgeseg build --target`. An engine is native code: never name a folder that somebody
            else sent you.
        options: of the build, see `EngineOptions`.
        progress: called while an engine is built.

    Raises:
        BackendUnavailable: if TensorRT, the driver or the GPU is missing or does not fit.
        BundleError: if the model is missing or damaged.
        EngineBuildError: if TensorRT cannot compile the model, or refuses what it just built.
        OutOfMemory: if the GPU's memory is exhausted.
    """

    flavour: ClassVar[str] = "tensorrt"

    def __init__(
        self,
        folder: str | os.PathLike[str],
        manifest: Manifest,
        *,
        threads: int | None = None,
        verify: bool = True,
        device: int = 0,
        engines_folder: str | os.PathLike[str] | None = None,
        options: EngineOptions | None = None,
        progress: Progress | None = None,
    ) -> None:
        del threads
        trt = trt_compat.import_tensorrt(self.flavour)
        with contextlib.ExitStack() as stack:
            gpu = cuda.CudaDevice(device)
            stack.callback(gpu.close)
            onnx = read_artifact(folder, manifest.artifact("onnx"), verify=verify)
            key = engines.key_for_device(onnx, trt, gpu.info, options or EngineOptions())
            trusted = [Path(engines_folder)] if engines_folder is not None else []
            gpu.activate()
            self._runtime = trt.Runtime(trt_compat.vendor_logger(trt))  # outlives its engines
            engine, self._file = _load_engine(
                trt, self._runtime, onnx, key, trusted=trusted, progress=progress
            )
            self._session = EngineSession(trt, engine, gpu)
            stack.pop_all()
        self._gpu = gpu
        self._version: str = trt.__version__

    @classmethod
    def obstacle(cls, folder: Path, manifest: Manifest) -> str | None:
        """Return why this bundle cannot run here, or None; see `BackendClass`."""
        try:
            trt = trt_compat.import_tensorrt(cls.flavour)
            info = cuda.probe()
            manifest.artifact("onnx")
            engines.key_for_device(b"", trt, info, EngineOptions())
        except EdgesegError as error:
            return str(error)
        return None

    def run(self, inputs: Tensors) -> Tensors:
        """Return the outputs by name, in fresh arrays that belong to the caller.

        Raises:
            InputContractError: if an input is missing or has another dtype or shape.
            DeviceLost: if the GPU failed; the process must be restarted.
            BackendError: if TensorRT failed.
        """
        return self._session.run(inputs)

    def describe(self) -> dict[str, Any]:
        """Return what ran where, for reports: versions, GPU, driver, engine."""
        return {
            "engine": self.flavour,
            "version": self._version,
            "device": self._gpu.info.name,
            "target": self._gpu.info.sm,
            "driver": self._gpu.info.driver_version,
            "file": self._file.path.name if self._file.path else None,
            "sha256": self._file.sha256,
            "size_bytes": self._file.size_bytes,
            "build_s": self._file.build_s,
        }

    def close(self) -> None:
        """Free the engine and its memory, once a run that is under way has ended."""
        self._session.close()
        self._runtime = None
        with contextlib.suppress(DeviceLost):
            self._gpu.close()


class TrtRtxBackend(TrtBackend):
    """A TensorRT-RTX engine on one GPU; see `TrtBackend`.

    The engine may have been compiled on a machine without a GPU. It is finished for this GPU
    while it loads, which takes some seconds.
    """

    flavour: ClassVar[str] = "tensorrt_rtx"


@dataclass(frozen=True, kw_only=True)
class _Binding:
    """One tensor at the engine's border, with its memory on both sides."""

    name: str
    is_input: bool
    host: npt.NDArray[Any]  # a view of page-locked memory
    host_address: int
    device_address: int


class EngineSession:
    """An engine with its context, stream and buffers, all allocated once.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        engine: a deserialised engine with fixed shapes; a free batch axis has its profile's size.
        gpu: the device that holds it; closed by the caller, after this.

    Raises:
        OutOfMemory: if the GPU's memory is exhausted.
        BackendError: if the context cannot be made.
    """

    def __init__(self, trt: Any, engine: Any, gpu: cuda.CudaDevice) -> None:
        self._trt = trt
        self._gpu = gpu
        self._lock = threading.Lock()
        self._failure: str | None = None
        self._is_open = True
        self._engine = engine
        gpu.activate()
        with contextlib.ExitStack() as stack:
            context = engine.create_execution_context()
            if context is None:
                reason = trt_compat.vendor_errors(trt)
                free, total = gpu.memory_info()
                raise OutOfMemory(
                    f"{trt.__name__} cannot make an execution context: {reason} ({free >> 20} of "
                    f"{total >> 20} MiB free). Close other programs on the GPU, or export the "
                    "model at a smaller --image-size."
                )
            self._context = context
            self._stream = gpu.create_stream()
            stack.callback(gpu.destroy_stream, self._stream)
            names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
            # Inputs first: the shape of an output may depend on them.
            names.sort(key=lambda name: engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT)
            self._bindings = [self._bind(name, stack) for name in names]
            self._memory = stack.pop_all()

    def run(self, inputs: Tensors) -> Tensors:
        """Return the outputs by name; see `TrtBackend.run`."""
        with self._lock:
            if not self._is_open:
                raise ValueError("the backend is closed; load the bundle again")
            if self._failure is not None:
                raise DeviceLost(self._failure)
            try:
                return self._run(inputs)
            except DeviceLost as error:
                self._failure = str(error)
                raise

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            self._context = self._engine = None
            self._bindings = []  # the views end before their memory
            with contextlib.suppress(DeviceLost):  # the driver has freed it all
                self._memory.close()

    def _bind(self, name: str, stack: contextlib.ExitStack) -> _Binding:
        """Allocate a tensor's memory and tell the context about it."""
        trt, engine, context = self._trt, self._engine, self._context
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        shape = tuple(engine.get_tensor_shape(name))
        if is_input and shape[:1] == (-1,):
            shape = tuple(engine.get_tensor_profile_shape(name, 0)[2])
            context.set_input_shape(name, shape)
        elif not is_input:
            shape = tuple(context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise BackendError(
                f"the engine's tensor {name!r} has the shape {list(shape)}, which depends on the "
                "data; export the model again with this edgeseg, whose graphs are static"
            )
        dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
        size_bytes = max(math.prod(shape) * dtype.itemsize, 1)
        device_address = self._gpu.allocate(size_bytes)
        stack.callback(self._gpu.free, device_address)
        host_address = self._gpu.allocate_host(size_bytes)
        stack.callback(self._gpu.free_host, host_address)
        memory = (ctypes.c_ubyte * size_bytes).from_address(host_address)
        host = np.frombuffer(memory, dtype, count=math.prod(shape)).reshape(shape)
        if not context.set_tensor_address(name, device_address):
            raise BackendError(
                f"{trt.__name__} refuses the buffer of {name!r}: {trt_compat.vendor_errors(trt)}"
            )
        return _Binding(
            name=name,
            is_input=is_input,
            host=host,
            host_address=host_address,
            device_address=device_address,
        )

    def _run(self, inputs: Tensors) -> Tensors:
        gpu, stream = self._gpu, self._stream
        gpu.activate()
        for binding in self._bindings:
            if binding.is_input:
                np.copyto(binding.host, _checked_input(inputs, binding))
                gpu.copy_to_device(
                    binding.device_address, binding.host_address, binding.host.nbytes, stream=stream
                )
        is_enqueued = self._context.execute_async_v3(stream)
        outputs = [binding for binding in self._bindings if not binding.is_input]
        for binding in outputs if is_enqueued else []:
            gpu.copy_to_host(
                binding.host_address, binding.device_address, binding.host.nbytes, stream=stream
            )
        gpu.synchronize(stream)  # raises DeviceLost if a kernel faulted
        if not is_enqueued:
            raise BackendError(
                f"{self._trt.__name__} failed to run the engine: "
                f"{trt_compat.vendor_errors(self._trt)}. Load the bundle again; if it happens "
                "again, build the engine anew (edgeseg build --force)."
            )
        return {binding.name: binding.host.copy() for binding in outputs}


def _load_engine(
    trt: Any,
    runtime: Any,
    onnx: bytes,
    key: engines.EngineKey,
    *,
    trusted: Sequence[Path],
    progress: Progress | None,
) -> tuple[Any, EngineFile]:
    """Return a deserialised engine; a stale one is built again, once."""
    reason = ""
    for is_retry in (False, True):
        plan, file = engines.load_or_build(
            onnx,
            key,
            store=engines.cache_folder(),
            trusted=() if is_retry else trusted,
            force=is_retry,
            progress=progress,
        )
        trt_compat.vendor_errors(trt)  # forget older ones
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is not None:
            return engine, file
        reason = trt_compat.vendor_errors(trt)
        if engines.is_out_of_memory(reason):
            raise OutOfMemory(
                f"the engine does not fit into the GPU's memory: {reason}. Close other programs "
                "on the GPU, or export the model at a smaller --image-size."
            )
        if file.is_new:
            break
        _logger.warning("the engine %s is stale and is built again: %s", file.path, reason)
        if file.path is not None and file.path.parent not in trusted:
            engines.discard_engine(file)
    raise EngineBuildError(
        f"{trt.__name__} {trt.__version__} cannot load the engine that it has just built for "
        f"{', '.join(key.targets)}: {reason}. Update the GPU's driver, or use "
        "backend='onnxruntime'."
    )


def _checked_input(inputs: Tensors, binding: _Binding) -> npt.NDArray[Any]:
    array = inputs.get(binding.name)
    expected = f"{binding.host.dtype} of shape {list(binding.host.shape)}"
    if array is None:
        raise InputContractError(
            f"the input {binding.name!r} is missing; the engine takes {expected}"
        )
    if array.dtype != binding.host.dtype or array.shape != binding.host.shape:
        raise InputContractError(
            f"the input {binding.name!r} is {array.dtype} of shape {list(array.shape)}; the "
            f"engine was built for {expected}. Build one for another batch size with "
            "options=EngineOptions(batch=...)."
        )
    return array
