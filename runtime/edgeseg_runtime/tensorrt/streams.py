"""Several graphs and several streams on TensorRT: who runs where, and whose memory is bound.

A lane runs one call at a time: it has a CUDA stream, scratch memory, and of each graph an execution
context for every number of rows that the engine was built for. Its contexts share the scratch memory. A
state has the device memory that a stream carries from graph to graph and from frame to frame; any lane
runs any state.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.backends import State, Tensors
from edgeseg_runtime.backends.state import ExchangedTensors, typical_order
from edgeseg_runtime.bundle.graphs import MAIN, Graph, staying_outputs
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.errors import DeviceLost, InputContractError, OutOfMemory
from edgeseg_runtime.tensorrt import compat as trt_compat
from edgeseg_runtime.tensorrt import cuda
from edgeseg_runtime.tensorrt.session import EngineSession, Scratch

__all__ = ["EngineStreams", "SessionPool"]

_logger = logging.getLogger(__name__)


class EngineStreams:
    """The engines of a model's graphs, run for several callers and several streams.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        engines: deserialised, one for each graph.
        gpu: the device that holds them; closed by the caller, after this.
        manifest: of the model.
        batch: size of a free batch axis.
        contexts: most calls that run at the same time.
        use_graph: see `EngineSession`.

    Raises:
        OutOfMemory: if the GPU's memory is exhausted.
        BackendError: if a context cannot be made, or an engine is not the manifest's.
    """

    def __init__(
        self,
        trt: Any,
        engines: Mapping[str, Any],
        gpu: cuda.CudaDevice,
        manifest: Manifest,
        *,
        batch: int = 1,
        contexts: int = 2,
        use_graph: bool = True,
    ) -> None:
        self._gpu = gpu
        self._manifest = manifest
        self._batch = batch
        may_share = all(_allows_contexts(trt, engine) for engine in engines.values())
        self._pool = SessionPool(
            lambda: _Lane(trt, engines, gpu, manifest.graphs, use_graph=use_graph),
            limit=contexts if may_share else 1,
        )
        self._lock = threading.Lock()
        self._states: list[_DeviceState] = []

    @property
    def num_lanes(self) -> int:
        """How many calls can run at the same time by now."""
        return self._pool.num_sessions

    @property
    def has_graph(self) -> bool:
        """Whether something is replayed as a CUDA graph."""
        return self._pool.has_graph

    def run(
        self,
        inputs: Tensors,
        graph: str = MAIN,
        state: State | None = None,
        rows: int | None = None,
    ) -> Tensors:
        """Return the outputs by name; see `Backend.run`."""
        if state is None and staying_outputs(self._manifest.graphs, graph):
            with contextlib.closing(self.open_state()) as own:
                return self._pool.run(inputs, graph, own, rows)
        return self._pool.run(inputs, graph, state, rows)

    def open_state(self) -> State:
        """Return the state of a new stream; all of its memory is allocated now.

        Raises:
            OutOfMemory: if the GPU's memory is exhausted.
        """
        state = _DeviceState(self._gpu, self._manifest, self._batch, self._release)
        with self._lock:
            self._states.append(state)
        return state

    def close(self) -> None:
        """Free everything, once the runs that are under way have ended; a second call does nothing."""
        self._pool.close()
        with self._lock:
            states = list(self._states)
        for state in states:
            state.close()

    def _release(self, state: _DeviceState, addresses: Collection[int]) -> None:
        """Let go of what was made for a state's memory, which is freed next."""
        self._pool.forget(addresses)
        with self._lock:
            self._states.remove(state)


class _Session(Protocol):
    """What a pool needs of the things in it."""

    @property
    def has_graph(self) -> bool: ...

    def run(
        self, inputs: Tensors, graph: str, state: State | None, rows: int | None
    ) -> Tensors: ...

    def forget(self, addresses: Collection[int]) -> None: ...

    def close(self) -> None: ...


class SessionPool:
    """Sessions of the same engines, made when callers need them at the same time.

    They are made one at a time, as TensorRT asks for, while the others run.

    Args:
        make: makes a session.
        limit: most sessions.

    Raises:
        OutOfMemory: if not even one session fits. If a later one does not, callers share those
            that there are.
    """

    def __init__(self, make: Callable[[], _Session], *, limit: int) -> None:
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

    def run(
        self,
        inputs: Tensors,
        graph: str = MAIN,
        state: State | None = None,
        rows: int | None = None,
    ) -> Tensors:
        """Return the outputs by name; see `Backend.run`."""
        session = self._take()
        try:
            return session.run(inputs, graph, state, rows)
        finally:
            with self._changed:
                self._idle.append(session)
                self._changed.notify()

    def forget(self, addresses: Collection[int]) -> None:
        """Give back what was made for device memory that is about to be freed."""
        with self._changed:
            sessions = list(self._sessions)
        for session in sessions:
            session.forget(addresses)

    def close(self) -> None:
        """Free all sessions, each once its run has ended; a second call does nothing."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_making)
        for session in self._sessions:
            session.close()

    def _take(self) -> _Session:
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

    def _made(self) -> _Session | None:
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


class _Lane:
    """A stream, scratch memory, and a session of each graph for every number of rows."""

    def __init__(
        self,
        trt: Any,
        engines: Mapping[str, Any],
        gpu: cuda.CudaDevice,
        graphs: Mapping[str, Graph],
        *,
        use_graph: bool,
    ) -> None:
        self._graphs = graphs
        self._sessions: dict[tuple[str, int | None], EngineSession] = {}
        wanted = [
            (name, bucket, profile)
            for name, graph in graphs.items()
            for profile, bucket in enumerate(graph.buckets or (None,))
        ]
        with contextlib.ExitStack() as stack:
            stream = gpu.create_stream()
            stack.callback(gpu.destroy_stream, stream)
            scratch = None
            if len(wanted) > 1:  # the only context of an engine has its own
                size_bytes = max(trt_compat.scratch_bytes(engine) for engine in engines.values())
                scratch = Scratch(gpu.allocate(max(size_bytes, 1)), size_bytes)
                stack.callback(gpu.free, scratch.address)
            for name, bucket, profile in wanted:
                graph, staying = graphs[name], staying_outputs(graphs, name)
                bound = {
                    spec.name: spec
                    for spec in (*graph.inputs, *graph.outputs)
                    if spec.name in {*graph.takes, *graph.reads, *staying}
                }
                session = EngineSession(
                    trt,
                    engines[name],
                    gpu,
                    use_graph=use_graph,
                    profile=profile,
                    bound=bound,
                    kept=graph.kept,
                    stream=stream,
                    scratch=scratch,
                )
                stack.callback(session.close)
                self._sessions[name, bucket] = session
            self._memory = stack.pop_all()

    @property
    def has_graph(self) -> bool:
        """Whether a session replays a CUDA graph."""
        return any(session.has_graph for session in self._sessions.values())

    def run(self, inputs: Tensors, name: str, state: State | None, rows: int | None) -> Tensors:
        """Run a graph on the memory of a state; see `Backend.run`.

        Of what it takes the first rows lie at the beginning of memory that holds all of them: a
        batch has one picture.
        """
        graph = self._graphs[name]
        bucket = None if rows is None or graph.rows is None else graph.rows.bucket(rows)
        session = self._sessions[name, bucket]
        if state is None:
            return session.run(inputs)
        assert isinstance(state, _DeviceState)
        sources = state.sources(name)
        targets = state.targets(name, staying_outputs(self._graphs, name))
        addresses = {key: buffer.address for key, buffer in {**sources, **targets}.items()}
        try:
            outputs = session.run(inputs, addresses)
        except InputContractError:  # before anything was written
            raise
        except BaseException:
            state.spoil(targets)
            raise
        state.keep(name, targets)
        cut = {spec.name for spec in graph.outputs if spec.has_rows}
        return {key: array[:, :rows] if key in cut else array for key, array in outputs.items()}

    def forget(self, addresses: Collection[int]) -> None:
        """Give back what was made for device memory that is about to be freed."""
        for session in self._sessions.values():
            session.forget(addresses)

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        with contextlib.suppress(DeviceLost):
            self._memory.close()


@dataclass(frozen=True, eq=False)
class _Buffer:
    """A tensor in device memory."""

    address: int
    dtype: npt.DTypeLike
    shape: tuple[int, ...]


class _DeviceState(ExchangedTensors[_Buffer]):
    """The device memory of one stream, allocated when it is opened.

    Args:
        gpu: the device.
        manifest: of the model.
        batch: size of a free batch axis.
        release: is told the addresses before they are freed.
    """

    def __init__(
        self,
        gpu: cuda.CudaDevice,
        manifest: Manifest,
        batch: int,
        release: Callable[[_DeviceState, Collection[int]], None],
    ) -> None:
        super().__init__(
            manifest.graphs,
            to_host=self._copy_to_host,
            fill=self._copy_to_device,
            allocate=self._allocate_output,
        )
        self._gpu = gpu
        self._batch = batch
        self._release = release
        self._addresses: list[int] = []
        self._is_open = True
        with contextlib.ExitStack() as stack:
            self._memory = stack
            self._stream = gpu.create_stream()
            stack.callback(gpu.destroy_stream, self._stream)
            self.reserve(typical_order(manifest.schedule))
            self._memory = stack.pop_all()

    def close(self) -> None:
        """Free the memory; calling it twice is allowed."""
        if not self._is_open:
            return
        self._is_open = False
        super().close()
        with contextlib.suppress(DeviceLost):  # the driver has freed it all
            self._release(self, self._addresses)
            self._memory.close()

    def _allocate_output(self, name: str, output: str) -> _Buffer:
        if not self._is_open:
            raise ValueError("the state is closed; open another one")
        spec = self._graphs[name].output(output)
        shape = tuple(self._batch if size == -1 else size for size in spec.shape)
        dtype = np.dtype(spec.dtype)
        address = self._gpu.allocate(math.prod(shape) * dtype.itemsize)
        self._memory.callback(self._gpu.free, address)
        self._addresses.append(address)
        return _Buffer(address, dtype, shape)

    def _copy_to_host(self, buffer: _Buffer) -> npt.NDArray[Any]:
        array = np.empty(buffer.shape, buffer.dtype)
        self._gpu.copy_to_host(array.ctypes.data, buffer.address, array.nbytes, stream=self._stream)
        self._gpu.synchronize(self._stream)
        return array

    def _copy_to_device(self, buffer: _Buffer, array: npt.NDArray[Any]) -> None:
        whole = np.ascontiguousarray(array)
        if whole.shape != buffer.shape:
            raise ValueError(f"found shape {list(whole.shape)}; expected {list(buffer.shape)}")
        self._gpu.copy_to_device(
            buffer.address, whole.ctypes.data, whole.nbytes, stream=self._stream
        )
        self._gpu.synchronize(self._stream)


def _allows_contexts(trt: Any, engine: Any) -> bool:
    """Tell whether an engine can have several contexts for one optimisation profile."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    is_static = all(-1 not in tuple(engine.get_tensor_shape(name)) for name in names)
    return is_static or trt_compat.shares_profiles(trt)
