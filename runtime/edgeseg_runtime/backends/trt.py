"""Run a bundle's model with TensorRT or TensorRT-RTX."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgeseg_runtime import cuda, engine_key, engine_store, engines, trt_compat
from edgeseg_runtime.backends import State, Tensors
from edgeseg_runtime.engine_key import EngineOptions
from edgeseg_runtime.engine_store import EngineFile
from edgeseg_runtime.errors import (
    BackendError,
    DeviceLost,
    EdgesegError,
    EngineBuildError,
    InputContractError,
    OutOfMemory,
)
from edgeseg_runtime.graphs import MAIN
from edgeseg_runtime.manifest import Manifest, read_artifact
from edgeseg_runtime.onnx_check import check_graph
from edgeseg_runtime.trt_compat import Progress

__all__ = ["EngineSession", "SessionPool", "TrtBackend", "TrtRtxBackend", "load_engine"]

_logger = logging.getLogger(__name__)


class TrtBackend:
    """A TensorRT engine on one GPU.

    The engine comes from the cache of this user or from `engines`, and is built if neither has
    one: that takes minutes, so run `edgeseg build` beforehand. What TensorRT refuses to load is
    thrown away and built again, once.

    `run` may be called from several threads. A TensorRT context serves one call at a time, so
    each of up to `contexts` callers gets its own; further ones wait.

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
        contexts: most calls that run at the same time. A context is made when it is first needed;
            each has activations and buffers of its own on the GPU, the weights are shared.
        use_graph: replay each context's work as one CUDA graph, which spares the CPU the launch of
            every kernel. Models with loops (NMS) cannot be captured: they run as without it.
        allow_operators: operators that the caller vouches for, see `onnx_check.check_graph`.

    Raises:
        ValueError: if `contexts` is not positive.
        BackendUnavailable: if TensorRT, the driver or the GPU is missing or does not fit.
        BundleError: if the model is missing, damaged, or holds what no bundle may hold.
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
        contexts: int = 2,
        use_graph: bool = True,
        allow_operators: Collection[str] = (),
    ) -> None:
        del threads
        if contexts < 1:
            raise ValueError(f"contexts is {contexts}; expected at least 1")
        trt = trt_compat.import_tensorrt(self.flavour)
        with contextlib.ExitStack() as stack:
            gpu = cuda.CudaDevice(device)
            stack.callback(gpu.close)
            artifact = manifest.artifact("onnx")
            onnx = read_artifact(folder, artifact, verify=verify)
            check_graph(onnx, file=artifact.file, allow_operators=allow_operators)
            key = engine_key.key_for_device(onnx, trt, gpu.info, options or EngineOptions())
            trusted = [Path(engines_folder)] if engines_folder is not None else []
            gpu.activate()
            self._runtime = trt.Runtime(trt_compat.vendor_logger(trt))  # outlives its engines
            engine, self._file = load_engine(
                trt, self._runtime, onnx, key, trusted=trusted, device=device, progress=progress
            )
            self._pool = SessionPool(
                lambda: EngineSession(trt, engine, gpu, use_graph=use_graph),
                limit=contexts if _allows_contexts(trt, engine) else 1,
            )
            stack.callback(self._pool.close)
            self._precisions = trt_compat.precisions_in_engine(trt, engine)
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
            engine_key.key_for_device(b"", trt, info, EngineOptions())
        except EdgesegError as error:
            return str(error)
        return None

    def run(
        self,
        inputs: Tensors,
        graph: str = MAIN,
        state: State | None = None,
        rows: int | None = None,
    ) -> Tensors:
        """Return the outputs by name, in fresh arrays that belong to the caller; see `Backend.run`.

        Raises:
            InputContractError: if an input is missing or has another dtype or shape.
            DeviceLost: if the GPU failed; the process must be restarted.
            BackendError: if TensorRT failed.
        """
        return self._pool.run(inputs)

    def describe(self) -> dict[str, Any]:
        """Return what ran where, for reports: versions, GPU, driver, engine, layers per precision.

        `num_nodes` is read back from the engine; it is empty for one without that information.
        """
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
            "num_nodes": dict(self._precisions),
            "contexts": self._pool.num_sessions,
            "has_graph": self._pool.has_graph,
        }

    def close(self) -> None:
        """Free the engine and its memory, once a run that is under way has ended."""
        self._pool.close()
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


class SessionPool:
    """Sessions of one engine, made when callers need them at the same time.

    They are made one at a time, as TensorRT asks for, while the others run.

    Args:
        make: makes a session.
        limit: most sessions.

    Raises:
        OutOfMemory: if not even one session fits. If a later one does not, callers share those
            that there are.
    """

    def __init__(self, make: Callable[[], EngineSession], *, limit: int) -> None:
        self._make = make
        self._limit = limit
        self._is_open = True
        self._is_making = False
        self._changed = threading.Condition()
        self._sessions = [make()]
        self._idle = list(self._sessions)

    @property
    def num_sessions(self) -> int:
        """How many sessions there are by now."""
        return len(self._sessions)

    @property
    def has_graph(self) -> bool:
        """Whether a session replays a CUDA graph."""
        return any(session.has_graph for session in self._sessions)

    def run(self, inputs: Tensors) -> Tensors:
        """Return the outputs by name; see `TrtBackend.run`."""
        session = self._take()
        try:
            return session.run(inputs)
        finally:
            with self._changed:
                self._idle.append(session)
                self._changed.notify()

    def close(self) -> None:
        """Free all sessions, each once its run has ended; a second call does nothing."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_making)
        for session in self._sessions:
            session.close()

    def _take(self) -> EngineSession:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._is_open or self._idle or self._may_make)
                if not self._is_open:
                    raise ValueError("the backend is closed; load the bundle again")
                if self._idle:
                    return self._idle.pop()
                self._is_making = True
            session = self._made()
            if session is not None:
                return session

    @property
    def _may_make(self) -> bool:
        return not self._is_making and len(self._sessions) < self._limit

    def _made(self) -> EngineSession | None:
        """Make a session without the lock, which returning callers need; None if it does not fit."""
        session = None
        try:
            session = self._make()
        except OutOfMemory as error:
            self._limit = len(self._sessions)  # nobody else changes it or them meanwhile
            _logger.warning("%d calls at a time, because no more fit: %s", self._limit, error)
        finally:
            with self._changed:
                if session is not None:
                    self._sessions.append(session)
                self._is_making = False
                self._changed.notify_all()
        return session


class EngineSession:
    """An engine with its context, stream and buffers, all allocated once.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        engine: a deserialised engine with fixed shapes; a free batch axis has its profile's size.
        gpu: the device that holds it; closed by the caller, after this.
        use_graph: from the second run on replay a CUDA graph, if the engine can be captured.

    Raises:
        OutOfMemory: if the GPU's memory is exhausted.
        BackendError: if the context cannot be made.
    """

    def __init__(
        self, trt: Any, engine: Any, gpu: cuda.CudaDevice, *, use_graph: bool = True
    ) -> None:
        self._trt = trt
        self._gpu = gpu
        self._graph: int | None = None
        self._may_capture = use_graph
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

    @property
    def has_graph(self) -> bool:
        """Whether runs replay a CUDA graph."""
        return self._graph is not None

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
        dtype = np.dtype(trt_compat.numpy_dtype(engine.get_tensor_dtype(name)))
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
        if self._graph is not None:
            gpu.launch_graph(self._graph, stream)
            gpu.synchronize(stream)  # raises DeviceLost if a kernel faulted
        else:
            try:
                self._enqueue()
            finally:
                gpu.synchronize(stream)
            if self._may_capture:
                self._capture()
        return {
            binding.name: binding.host.copy() for binding in self._bindings if not binding.is_input
        }

    def _enqueue(self) -> None:
        """Put copies and kernels on the stream."""
        gpu, stream = self._gpu, self._stream
        for binding in self._bindings:
            if binding.is_input:
                gpu.copy_to_device(
                    binding.device_address, binding.host_address, binding.host.nbytes, stream=stream
                )
        if not self._context.execute_async_v3(stream):
            raise BackendError(
                f"{self._trt.__name__} failed to run the engine: "
                f"{trt_compat.vendor_errors(self._trt)}. Load the bundle again; if it happens "
                "again, build the engine anew (edgeseg build --force)."
            )
        for binding in self._bindings:
            if not binding.is_input:
                gpu.copy_to_host(
                    binding.host_address, binding.device_address, binding.host.nbytes, stream=stream
                )

    def _capture(self) -> None:
        """Capture what a run enqueues, once, after a run without it as TensorRT asks for."""
        self._may_capture = False
        try:
            graph = self._gpu.capture_graph(self._stream, self._enqueue)
        except DeviceLost:
            raise
        except BackendError as error:
            _logger.info("runs without a CUDA graph, because the engine has none: %s", error)
            trt_compat.vendor_errors(self._trt)  # forget them
            return
        self._graph = graph
        self._memory.callback(self._gpu.destroy_graph, graph)


def _allows_contexts(trt: Any, engine: Any) -> bool:
    """Tell whether an engine can have more than one context; it has one optimisation profile."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    is_static = all(-1 not in tuple(engine.get_tensor_shape(name)) for name in names)
    return is_static or trt_compat.shares_profiles(trt)


def load_engine(
    trt: Any,
    runtime: Any,
    onnx: bytes,
    key: engine_key.EngineKey,
    *,
    trusted: Sequence[Path],
    device: int = 0,
    progress: Progress | None,
) -> tuple[Any, EngineFile]:
    """Return a deserialised engine; a stale one is built again, once.

    One of the caller's own folder is passed over in favour of the cache, and stays where it is.
    """
    reason, must_build = "", False
    for _ in range(3):  # from the caller's folder, from the cache, built
        plan, file = engines.load_or_build(
            onnx,
            key,
            store=engine_store.cache_folder(),
            trusted=trusted,
            force=must_build,
            device=device,
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
        if file.path is not None and file.path.parent in trusted:
            _logger.warning("the engine %s is stale and passed over: %s", file.path, reason)
            trusted = ()
        else:
            _logger.warning("the engine %s is stale and is built again: %s", file.path, reason)
            engine_store.discard_engine(file)
            must_build = True
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
