"""Run a bundle's graphs with ONNX Runtime."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from edgeseg_runtime.backends import State, Tensors, missing_graph
from edgeseg_runtime.backends.state import KeptTensors, first_rows
from edgeseg_runtime.backends.winograd import check_winograd, with_winograd
from edgeseg_runtime.bundle.graph_files import read_graph
from edgeseg_runtime.bundle.graphs import MAIN, staying_outputs
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.errors import (
    BackendError,
    BackendUnavailable,
    CorruptArtifact,
    EngineBuildError,
    InputContractError,
    OutOfMemory,
)
from edgeseg_runtime.libraries import import_library
from edgeseg_runtime.onnx.quantized import prepare_for_cpu
from edgeseg_runtime.pickling import Unpicklable

__all__ = ["OrtBackend", "node_times"]

CPU = "CPUExecutionProvider"
_CUDA = ("CUDAExecutionProvider", "TensorrtExecutionProvider")

_FATAL_SEVERITY = 4  # ONNX Runtime writes its log to stderr; its errors are raised as well
_NO_CPU = "session.disable_cpu_ep_fallback"
_RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"  # from 1.24.1 on
_GET_ASSIGNMENT = "get_provider_graph_assignment_info"

_logger = logging.getLogger(__name__)


class OrtBackend(Unpicklable):
    """ONNX Runtime sessions, one for each graph, over verified bytes.

    The session is made from memory, never from a path, so the bytes that were hashed are the bytes
    that are loaded. Models that hold what no bundle may hold are refused, see `onnx.check`.

    `run` may be called from several threads at once; ONNX Runtime allows that.

    Args:
        folder: the bundle.
        manifest: its manifest.
        threads: threads within an operator, or None for one per physical core.
        verify: compare the model's sha256 with the manifest.
        providers: "cpu"; "auto" for all that this build of ONNX Runtime has; or names in falling
            priority, such as ["CUDAExecutionProvider"]. A named provider that cannot be used is
            an error, never a silent run on the CPU; so is a node that it leaves to the CPU,
            unless "CPUExecutionProvider" is named as well.
        is_spinning: let idle threads spin between frames: a lower latency for a busy core. Off
            suits cameras and batteries. In a bundle of several graphs they stop when a graph ends.
        has_arena: keep freed memory for the next run. Off gives it back, at some speed; shapes
            are fixed, so the arena does not grow after the first run.
        profile: prefix of files of node times, see `end_profiling`; None for no profile.
        allow_operators: operators that the caller vouches for, see `onnx.check.check_graph`.
        winograd: "auto" computes those 3x3 convolutions in Winograd's form that were measured to be faster
            so, on the CPU; "off" none.

    Raises:
        BundleError: if the model is missing, damaged, or holds what no bundle may hold.
        BackendUnavailable: if a provider cannot be used.
        EngineBuildError: if ONNX Runtime cannot run the model.
        ImportError: if onnxruntime is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        manifest: Manifest,
        *,
        threads: int | None = None,
        verify: bool = True,
        providers: str | Sequence[str] = "cpu",
        is_spinning: bool = True,
        has_arena: bool = True,
        profile: str | os.PathLike[str] | None = None,
        allow_operators: Collection[str] = (),
        winograd: str = "auto",
    ) -> None:
        onnxruntime = import_library("onnxruntime")
        check_winograd(winograd)
        chosen = _chosen_providers(providers, onnxruntime.get_available_providers())
        self._make_value = onnxruntime.OrtValue.ortvalue_from_numpy
        self._device = "cuda" if chosen[0] in _CUDA else "cpu"
        self._graphs = manifest.graphs
        self._threads = threads
        self._version: str = onnxruntime.__version__
        self._sessions: dict[str, Any] = {}
        self._num_nodes: Counter[str] = Counter()
        self._num_winograd = 0
        for name, graph in manifest.graphs.items():
            options = _session_options(
                chosen,
                threads=threads,
                is_spinning=is_spinning,
                has_arena=has_arena,
                has_stages=len(manifest.graphs) > 1,
            )
            if profile is not None:
                options.enable_profiling = True
                options.profile_file_prefix = f"{os.fspath(profile)}_{name}"
            onnx = read_graph(
                folder, manifest, name, verify=verify, allow_operators=allow_operators
            )
            if chosen[0] == CPU and winograd == "auto":
                onnx, num_rewritten = with_winograd(onnx, graph, "onnxruntime", threads)
                self._num_winograd += num_rewritten
            if chosen[0] == CPU:
                onnx = prepare_for_cpu(onnx, options)
            with _translated_load(manifest.artifact(graph.artifact).file, self._version):
                session = onnxruntime.InferenceSession(
                    onnx, sess_options=options, providers=list(chosen)
                )
            _forget_bytes(session)
            num_nodes = _num_nodes_by_provider(session)
            _check_provider(
                chosen[0], session.get_providers(), num_nodes, is_choice=providers != "auto"
            )
            self._num_nodes.update(num_nodes)
            self._sessions[name] = session

    @classmethod
    def obstacle(cls, folder: Path, manifest: Manifest) -> str | None:
        """Return why this bundle cannot run here, or None; see `BackendClass`."""
        try:
            import_library("onnxruntime")
        except ImportError as error:
            return f"onnxruntime cannot be imported ({error})"
        return missing_graph(folder, manifest)

    def run(
        self,
        inputs: Tensors,
        graph: str = MAIN,
        state: State | None = None,
        rows: int | None = None,
    ) -> Tensors:
        """Return the outputs by name, in fresh arrays that belong to the caller; see `Backend.run`.

        What a graph takes, reads or writes is bound, not copied.

        Raises:
            InputContractError: if ONNX Runtime refuses the inputs.
            OutOfMemory: if memory is exhausted.
            BackendError: if an operator fails.
        """
        session = self._sessions.get(graph)  # `close` in another thread must not take it half-way
        if session is None:
            raise ValueError("the backend is closed; load the bundle again")
        names = [spec.name for spec in self._graphs[graph].outputs]
        if state is None:
            with _translated_run():
                return dict(zip(names, session.run(names, inputs), strict=True))
        assert isinstance(state, KeptTensors)
        sources, binding = state.sources(graph), session.io_binding()
        with _translated_run():
            sources = first_rows(
                self._graphs[graph], sources, lambda value: self._value(value.numpy()[:, :rows])
            )
            for name, array in inputs.items():
                binding.bind_cpu_input(name, array)
            for name, value in sources.items():
                binding.bind_ortvalue_input(name, value)
            kept = self._graphs[graph].kept
            for name in names:
                binding.bind_output(name, self._device if name in kept else "cpu")
            session.run_with_iobinding(binding)
            outputs = dict(zip(names, binding.get_outputs(), strict=True))
        state.keep(graph, outputs)
        # `numpy` gives a view on the CPU: what stays must not change in the caller's hands.
        staying = staying_outputs(self._graphs, graph)
        return {
            name: value.numpy().copy() if name in staying else value.numpy()
            for name, value in outputs.items()
            if name not in kept
        }

    def open_state(self) -> State:
        """Return the state of a new stream."""
        return KeptTensors(
            self._graphs,
            to_host=lambda value: value.numpy().copy(),
            from_host=lambda _, array: self._value(array),
        )

    def _value(self, array: npt.NDArray[Any]) -> Any:
        """Return an array's copy on the device; ONNX Runtime would read the array itself in place."""
        return self._make_value(array.copy(), self._device, 0)

    def describe(self) -> dict[str, Any]:
        """Return what ran where, for reports: versions, provider, nodes per provider, threads.

        `num_winograd` counts the convolutions in Winograd's form. `num_nodes` is empty before ONNX Runtime 1.24, which cannot tell.
        """
        session = next(iter(self._sessions.values()), None)
        return {
            "engine": "onnxruntime",
            "version": self._version,
            "provider": session.get_providers()[0] if session else None,
            "num_nodes": dict(self._num_nodes),
            "num_winograd": self._num_winograd,
            "threads": self._threads,
        }

    def end_profiling(self) -> dict[str, Path]:
        """Close the profiles that the option `profile` started and return their files by graph."""
        if not self._sessions:
            raise ValueError("the backend is closed; load the bundle again")
        return {name: Path(session.end_profiling()) for name, session in self._sessions.items()}

    def close(self) -> None:
        """Free the sessions; a call of `run` that is under way still ends."""
        self._sessions = {}


def node_times(profile: str | os.PathLike[str], *, skip_runs: int = 1) -> dict[str, float]:
    """Return the mean time per run that each type of operator takes, longest first.

    A node with a body (If, Loop) counts its body's nodes too, which also count themselves.

    Args:
        profile: file from `OrtBackend.end_profiling`.
        skip_runs: first runs to leave out: they allocate and are slower.

    Returns:
        Operator type -> milliseconds.

    Raises:
        ValueError: if the profile has no more than `skip_runs` runs.
    """
    events = json.loads(Path(profile).read_text(encoding="utf-8"))
    runs = sorted(
        (event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("name") == "model_run"
    )[skip_runs:]
    if not runs:
        raise ValueError(f"{os.fspath(profile)} holds no run beyond the first {skip_runs}")
    total_us: dict[str, float] = defaultdict(float)
    for event in events:
        is_kernel = event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
        if is_kernel and event["ts"] >= runs[0][0]:
            total_us[event["args"]["op_name"]] += event["dur"]
    times = {name: duration / 1000 / len(runs) for name, duration in total_us.items()}
    return dict(sorted(times.items(), key=lambda item: -item[1]))


def _chosen_providers(providers: str | Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    if providers == "cpu":
        return (CPU,)
    if providers == "auto":
        return tuple(name for name in available if name != "AzureExecutionProvider")
    chosen = (providers,) if isinstance(providers, str) else tuple(providers)
    if not chosen:
        raise ValueError("providers is empty; expected 'cpu', 'auto' or names of providers")
    missing = [name for name in chosen if name not in available]
    if missing:
        raise BackendUnavailable(
            f"ONNX Runtime here has no {missing[0]}, only {', '.join(available)}. Install a build "
            "that has it (pip install onnxruntime-gpu for CUDA on a PC), or leave `providers` out "
            "to run on the CPU."
        )
    return chosen


def _session_options(
    providers: Sequence[str],
    *,
    threads: int | None,
    is_spinning: bool,
    has_arena: bool,
    has_stages: bool,
) -> Any:
    onnxruntime = import_library("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_SEVERITY
    options.enable_cpu_mem_arena = has_arena
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if CPU not in providers:
        options.add_session_config_entry(_NO_CPU, "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    if not is_spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    elif has_stages:
        # Each session has threads of its own, and those of the graph before would spin on the
        # cores that the next one computes on: 3 % of Mask R-CNN's time with 2 threads.
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if hasattr(onnxruntime.InferenceSession, _GET_ASSIGNMENT):
        options.add_session_config_entry(_RECORD_ASSIGNMENT, "1")
    return options


def _forget_bytes(session: Any) -> None:
    """Let go of the encoded model, which a session keeps for as long as it lives.

    It would open it again on the CPU if a provider fails in the middle; that is an error here.
    """
    session.disable_fallback()
    if hasattr(session, "_model_bytes"):
        session._model_bytes = None


def _num_nodes_by_provider(session: Any) -> dict[str, int]:
    """Count a session's nodes; nothing before ONNX Runtime 1.24.1, which cannot tell."""
    if not hasattr(session, _GET_ASSIGNMENT):
        return {}
    counts: dict[str, int] = defaultdict(int)
    for subgraph in session.get_provider_graph_assignment_info():
        counts[subgraph.ep_name] += len(subgraph.get_nodes())
    return dict(counts)


def _check_provider(
    wanted: str, found: Sequence[str], num_nodes: dict[str, int], *, is_choice: bool
) -> None:
    """Find out what ONNX Runtime does not say: that it fell back to the CPU."""
    problem = None
    if found[0] != wanted:
        problem = f"ONNX Runtime could not start {wanted} and fell back to {found[0]}"
    elif num_nodes and not num_nodes.get(wanted):
        problem = f"{wanted} took none of the model's nodes; they run on {', '.join(num_nodes)}"
    if problem and is_choice:
        raise BackendUnavailable(
            f"{problem}. Check the driver and the libraries that {wanted} needs, or leave "
            "`providers` out to run on the CPU."
        )
    if problem:
        _logger.warning("%s", problem)
    elif len(num_nodes) > 1:
        _logger.info("nodes by provider: %s", num_nodes)


# Errors of ONNX Runtime derive from Exception itself, one class per status code, and their module
# is the native library. Nothing else in edgeseg looks at them.


@contextlib.contextmanager
def _translated_load(file: str, version: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        kind, text = type(error).__name__, _first_line(error)
        if _is_out_of_memory(error):
            raise _out_of_memory(text) from error
        if kind in {"InvalidProtobuf", "NoModel"} or "No graph was found" in text:
            raise CorruptArtifact(file, "an ONNX model", f"something else ({text})") from error
        if not _is_vendor_error(error):
            raise
        if "fallback to CPU EP has been explicitly disabled" in text:
            raise BackendUnavailable(
                f"ONNX Runtime {version} leaves a part of {file} to the CPU. Name it as well to "
                "allow that: providers=[..., 'CPUExecutionProvider']; `describe()` then says how "
                "many nodes run where."
            ) from error
        raise EngineBuildError(
            f"ONNX Runtime {version} cannot run {file}: {text}. Upgrade it (pip install -U "
            "onnxruntime), or export the model again with --opset 17."
        ) from error


@contextlib.contextmanager
def _translated_run() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        text = _first_line(error)
        if _is_out_of_memory(error):
            raise _out_of_memory(text) from error
        if type(error).__name__ == "InvalidArgument" or isinstance(error, ValueError):
            raise InputContractError(f"ONNX Runtime refuses the inputs: {text}") from error
        if not _is_vendor_error(error):
            raise
        raise BackendError(
            f"ONNX Runtime failed in the middle of the model: {text}. "
            "Run `edgeseg doctor`; if the CPU provider fails too, export the bundle again."
        ) from error


def _is_vendor_error(error: Exception) -> bool:
    # RuntimeError is what pybind makes of a C++ exception without a status code.
    return type(error).__module__.startswith("onnxruntime") or type(error) is RuntimeError


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or any(
        mark in text for mark in ("bad_alloc", "Failed to allocate memory", "out of memory")
    )


def _out_of_memory(text: str) -> OutOfMemory:
    return OutOfMemory(
        f"ONNX Runtime ran out of memory ({text}). Close other programs, or export the model at a "
        "smaller --image-size."
    )


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
