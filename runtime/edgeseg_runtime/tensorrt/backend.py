"""Run a bundle's model with TensorRT or TensorRT-RTX."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar

from edgeseg_runtime.backends import State, Tensors, missing_graph
from edgeseg_runtime.bundle.graph_files import read_graph
from edgeseg_runtime.bundle.graphs import MAIN
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.errors import (
    DeviceLost,
    EdgesegError,
    EngineBuildError,
    OutOfMemory,
)
from edgeseg_runtime.pickling import Unpicklable
from edgeseg_runtime.progress import Progress
from edgeseg_runtime.tensorrt import compat as trt_compat
from edgeseg_runtime.tensorrt import cuda, engines
from edgeseg_runtime.tensorrt import key as engine_key
from edgeseg_runtime.tensorrt import store as engine_store
from edgeseg_runtime.tensorrt.key import EngineOptions
from edgeseg_runtime.tensorrt.store import EngineFile
from edgeseg_runtime.tensorrt.streams import EngineStreams

__all__ = ["TrtBackend", "TrtRtxBackend", "load_engine"]

_logger = logging.getLogger(__name__)


class TrtBackend(Unpicklable):
    """TensorRT engines, one for each graph, on one GPU.

    An engine comes from the cache of this user or from `engines_folder`, and is built if neither
    has one: that takes minutes, so run `edgeseg build` beforehand. What TensorRT refuses to load is
    thrown away and built again, once.

    `run` may be called from several threads. A TensorRT context serves one call at a time, so
    each of up to `contexts` callers gets its own; further ones wait. What a graph takes, reads or
    writes stays on the GPU, in memory of the stream's state. A graph with rows runs the next larger
    number of rows that its engine was built for.

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
        allow_operators: operators that the caller vouches for, see `onnx.check.check_graph`.

    Raises:
        ValueError: if `contexts` is not positive, or a model with rows is to run a batch.
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
        options = options or EngineOptions()
        engines.check_batch(manifest, options)
        trt = trt_compat.import_tensorrt(self.flavour)
        with contextlib.ExitStack() as stack:
            gpu = cuda.CudaDevice(device)
            stack.callback(gpu.close)
            gpu.activate()
            self._runtime = trt.Runtime(trt_compat.vendor_logger(trt))  # outlives its engines
            loaded: dict[str, Any] = {}
            self._files: dict[str, EngineFile] = {}
            for name, graph in manifest.graphs.items():
                onnx = read_graph(
                    folder, manifest, name, verify=verify, allow_operators=allow_operators
                )
                key = engine_key.key_for_device(onnx, trt, gpu.info, options, graph.buckets)
                with engines.naming(name, manifest):
                    loaded[name], self._files[name] = load_engine(
                        trt,
                        self._runtime,
                        onnx,
                        key,
                        trusted=[] if engines_folder is None else [Path(engines_folder)],
                        device=device,
                        progress=progress,
                    )
            self._streams = EngineStreams(
                trt,
                loaded,
                gpu,
                manifest,
                batch=options.batch,
                contexts=contexts,
                use_graph=use_graph,
            )
            stack.callback(self._streams.close)
            self._precisions: Counter[str] = Counter()
            for engine in loaded.values():
                self._precisions.update(trt_compat.precisions_in_engine(trt, engine))
            stack.pop_all()
        self._gpu = gpu
        self._version: str = trt.__version__

    @classmethod
    def obstacle(cls, folder: Path, manifest: Manifest) -> str | None:
        """Return why this bundle cannot run here, or None; see `BackendClass`."""
        missing = missing_graph(folder, manifest)
        if missing is not None:
            return missing
        try:
            trt = trt_compat.import_tensorrt(cls.flavour)
            info = cuda.probe()
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
        return self._streams.run(inputs, graph, state, rows)

    def open_state(self) -> State:
        """Return the state of a new stream, with all of its memory.

        Raises:
            OutOfMemory: if the GPU's memory is exhausted.
        """
        return self._streams.open_state()

    def describe(self) -> dict[str, Any]:
        """Return what ran where, for reports: versions, GPU, driver, engines, layers per precision.

        Files and digests are in the order of the graphs; sizes and times are of all engines
        together. `num_nodes` is read back from them; it is empty without that information.
        """
        files = list(self._files.values())
        names = [file.path.name for file in files if file.path]
        return {
            "engine": self.flavour,
            "version": self._version,
            "device": self._gpu.info.name,
            "target": self._gpu.info.sm,
            "driver": self._gpu.info.driver_version,
            "file": ", ".join(names) or None,
            "sha256": ", ".join(file.sha256 for file in files),
            "size_bytes": sum(file.size_bytes for file in files),
            "build_s": sum(file.build_s for file in files),
            "num_nodes": dict(self._precisions.most_common()),
            "contexts": self._streams.num_lanes,
            "has_graph": self._streams.has_graph,
        }

    def close(self) -> None:
        """Free the engines and their memory, once the runs that are under way have ended."""
        self._streams.close()
        self._runtime = None
        with contextlib.suppress(DeviceLost):
            self._gpu.close()


class TrtRtxBackend(TrtBackend):
    """A TensorRT-RTX engine on one GPU; see `TrtBackend`.

    The engine may have been compiled on a machine without a GPU. It is finished for this GPU
    while it loads, which takes some seconds.
    """

    flavour: ClassVar[str] = "tensorrt_rtx"


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
