"""Examines this machine: what is installed, what really runs, and what to do about the rest."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg_runtime import __version__
from edgeseg_runtime.backends import INSTALL_HINTS
from edgeseg_runtime.commands.tables import sections_from_document
from edgeseg_runtime.commands.terminal import Terminal
from edgeseg_runtime.environment import Environment, read_environment
from edgeseg_runtime.errors import EdgesegError
from edgeseg_runtime.libraries import import_library
from edgeseg_runtime.tensorrt import compat as trt_compat
from edgeseg_runtime.tensorrt import cuda
from edgeseg_runtime.tensorrt import store as engine_store

__all__ = ["ONE_NODE_MODEL", "doctor", "examine"]

CPU_PROVIDER = "CPUExecutionProvider"
FAST_INT8_FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "asimddp")
FAST_GRID_SAMPLE = (1, 25)
"""ONNX Runtime from which GridSample, and so RoI-Align, is fast on a CPU."""
OPENCV_PACKAGES = ("opencv-python", "opencv-python-headless")
ONNXRUNTIME_PACKAGES = ("onnxruntime", "onnxruntime-gpu")
WORKSTATION = "edgeseg"
"""The package that exports, and needs ONNX Runtime for it."""

ONE_NODE_MODEL = bytes.fromhex(
    "08083a3d0a120a01781201791a0472656c75220452656c75120570726f6265"
    "5a0f0a0178120a0a08080112040a020802620f0a0179120a0a08080112040a02"
    "080242040a001011"
)
"""An ONNX model, opset 17: y = Relu(x), both float32 of shape (2,)."""
_INPUT = np.array([-1, 2], np.float32)
_EXPECTED = [0.0, 2.0]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is wrong, and the command or step that mends it.

    Attributes:
        severity: "error" where nothing runs, "warning" where something is slow or fragile.
        problem: what was found.
        fix: what to do.
    """

    severity: str
    problem: str
    fix: str


def doctor(terminal: Terminal) -> int:
    """Examine this machine; return 1 if nothing runs on it, else 0."""
    with terminal.progress(keeps_stages=False) as progress:
        progress("examine this machine", 0, 1)
        document = examine()
    terminal.show(*sections_from_document(document))
    if not document["findings"]:
        terminal.show("Nothing to mend.")
    terminal.finish(document)
    return int(any(finding["severity"] == "error" for finding in document["findings"]))


def examine() -> dict[str, Any]:
    """Return the facts about this machine as a JSON document; `findings` lists what is wrong."""
    environment = read_environment()
    providers = check_providers()
    openvino = check_openvino()
    tensorrt = [describe_tensorrt(flavour) for flavour in trt_compat.FLAVOURS]
    opencv = describe_opencv()
    gpu = describe_gpu()
    cache = describe_cache(engine_store.cache_folder())
    facts = {
        "software": _software(environment),
        "machine": _machine(environment),
        "providers": providers,
        "openvino": openvino,
        "tensorrt": tensorrt,
        "gpu": gpu,
        "opencv": opencv,
        "cache": cache,
    }
    has_tensorrt = gpu["is_found"] and any(entry["version"] for entry in tensorrt)
    has_openvino = any(entry["runs"] for entry in openvino)
    found = [
        *package_findings(environment.versions),
        *provider_findings(
            providers, environment.versions, has_another_engine=has_tensorrt or has_openvino
        ),
        *openvino_findings(openvino),
        *_machine_findings(environment, opencv, cache),
    ]
    return {**facts, "findings": [asdict(finding) for finding in found]}


def check_providers() -> list[dict[str, Any]]:
    """Run a model of one node on every provider of ONNX Runtime; see what really computes.

    ONNX Runtime lists providers whose libraries are missing and falls back to the CPU without an
    error, so that only a run tells.
    """
    try:
        onnxruntime = import_library("onnxruntime")
    except ImportError as error:
        return [{"provider": CPU_PROVIDER, "runs": False, "time_ms": None, "detail": str(error)}]
    return [_run_provider(onnxruntime, name) for name in onnxruntime.get_available_providers()]


def check_openvino() -> list[dict[str, Any]]:
    """Run a model of one node on every device of OpenVINO; one entry says why there are none."""
    none = {"version": None, "device": None, "runs": False, "time_ms": None}
    try:
        openvino = import_library("openvino")
        core = openvino.Core()
        devices = list(core.available_devices)
    except ImportError as error:
        return [{**none, "detail": str(error)}]
    except RuntimeError as error:  # all errors of OpenVINO
        return [{**none, "detail": _one_line(error)}]
    version = openvino.__version__.partition("-")[0]
    return [{"version": version, **_run_device(core, name)} for name in devices]


def describe_tensorrt(flavour: str) -> dict[str, Any]:
    """Return whether a flavour of TensorRT can be imported, and its version."""
    try:
        trt = trt_compat.import_tensorrt(flavour)
    except EdgesegError as error:
        return {"engine": flavour, "version": None, "detail": str(error)}
    return {"engine": flavour, "version": trt.__version__, "detail": "can be imported"}


def describe_gpu() -> dict[str, Any]:
    """Return the first CUDA device, or why there is none."""
    try:
        return {"is_found": True, **asdict(cuda.probe())}
    except EdgesegError as error:
        return {"is_found": False, "detail": str(error)}


def describe_opencv() -> dict[str, Any]:
    """Return version, place and video backends of OpenCV."""
    import cv2

    information = cv2.getBuildInformation()
    return {
        "version": cv2.__version__,
        "file": str(Path(cv2.__file__).parent),
        "ffmpeg": _has_backend(information, "FFMPEG"),
        "gstreamer": _has_backend(information, "GStreamer"),
    }


def describe_cache(folder: Path) -> dict[str, Any]:
    """Return where engines are kept, whether that can be read and written, and how much lies there."""
    sizes: dict[str, int] = {}
    problem = None
    try:
        with os.scandir(folder) as entries:
            sizes = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except FileNotFoundError:
        pass
    except OSError as error:
        problem = error.strerror
    return {
        "folder": str(folder),
        "is_writable": _is_writable(folder),
        "problem": problem,
        "num_engines": sum(name.endswith(".engine") for name in sizes),
        "size_bytes": sum(sizes.values()),
    }


def package_findings(versions: dict[str, str]) -> list[Finding]:
    """Return what is wrong with the set of installed packages, given as name -> version."""
    found = []
    if all(package in versions for package in OPENCV_PACKAGES):
        found.append(
            Finding(
                severity="warning",
                problem="opencv-python and opencv-python-headless overwrite each other's files",
                fix=f"pip uninstall -y {' '.join(OPENCV_PACKAGES)} && pip install opencv-python",
            )
        )
    if "edgeseg" in versions and "edgeseg-runtime" in versions:
        found.append(
            Finding(
                severity="warning",
                problem="edgeseg and edgeseg-runtime are both installed and hold the same modules",
                fix="pip uninstall -y edgeseg-runtime && pip install --force-reinstall --no-deps edgeseg",
            )
        )
    if "onnxruntime" in versions and "onnxruntime-gpu" in versions:
        found.append(
            Finding(
                severity="warning",
                problem="onnxruntime and onnxruntime-gpu overwrite each other's files",
                fix="pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
            )
        )
    for package in ONNXRUNTIME_PACKAGES:
        version = versions.get(package)
        if version is not None and _numbers(version) < FAST_GRID_SAMPLE:
            found.append(
                Finding(
                    severity="warning",
                    problem=f"{package} {version} runs GridSample, and so RoI-Align, several times "
                    "slower on a CPU than 1.25 and later",
                    fix=f"pip install --upgrade '{package}>=1.25'  (needs Python 3.11)",
                )
            )
    return found


def provider_findings(
    providers: Iterable[dict[str, Any]],
    versions: dict[str, str],
    *,
    has_another_engine: bool = False,
) -> list[Finding]:
    """Return what is wrong with ONNX Runtime, after its providers were tried.

    A device that has another engine can do without it, a workstation cannot.
    """
    by_name = {entry["provider"]: entry for entry in providers}
    cpu = by_name.get(CPU_PROVIDER)
    found = []
    is_installed = any(package in versions for package in ONNXRUNTIME_PACKAGES)
    is_needed = WORKSTATION in versions or not has_another_engine
    if (is_installed or is_needed) and (cpu is None or not cpu["runs"]):
        detail = cpu["detail"] if cpu else "it lists no CPU provider"
        repair = "pip install --force-reinstall onnxruntime"
        found.append(
            Finding(
                severity="error" if is_needed else "warning",
                problem=f"ONNX Runtime does not run a model: {detail}",
                fix=repair if is_installed else INSTALL_HINTS["onnxruntime"],
            )
        )
    cuda_provider = by_name.get("CUDAExecutionProvider")
    if "onnxruntime-gpu" in versions and (cuda_provider is None or not cuda_provider["runs"]):
        detail = cuda_provider["detail"] if cuda_provider else "it is not listed"
        found.append(
            Finding(
                severity="warning",
                problem=f"onnxruntime-gpu is installed, but its CUDA provider does not run: {detail}",
                fix="install the CUDA and cuDNN that it was built for: pip install "
                "'onnxruntime-gpu[cuda,cudnn]'",
            )
        )
    return found


def openvino_findings(devices: Iterable[dict[str, Any]]) -> list[Finding]:
    """Return what is wrong with OpenVINO, after its devices were tried."""
    return [
        Finding(
            severity="warning",
            problem=f"OpenVINO {entry['version']} does not run a model on {entry['device']}: "
            f"{entry['detail']}",
            fix="install the driver of that device"
            if entry["device"] != "CPU"
            else "pip install --force-reinstall openvino",
        )
        for entry in devices
        if entry["device"] is not None and not entry["runs"]
    ]


def _machine_findings(
    environment: Environment, opencv: dict[str, Any], cache: dict[str, Any]
) -> list[Finding]:
    found = []
    if environment.device and "jetson" in environment.device.lower() and not opencv["gstreamer"]:
        found.append(
            Finding(
                severity="warning",
                problem=f"the OpenCV of {opencv['file']} has no GStreamer, which CSI cameras need; "
                "it hides JetPack's own",
                fix=f"pip uninstall -y {' '.join(OPENCV_PACKAGES)}, in a venv made with "
                "--system-site-packages",
            )
        )
    if not cache["is_writable"] or cache["problem"]:
        reason = cache["problem"] or "it cannot be written"
        found.append(
            Finding(
                severity="warning",
                problem=f"engines cannot be kept in {cache['folder']}: {reason}",
                fix="export EDGESEG_CACHE=/a/folder/of/yours",
            )
        )
    return found


def _software(environment: Environment) -> dict[str, Any]:
    return {
        "edgeseg": __version__,
        "python": f"{environment.python} ({sys.executable})",
        **{name: version for name, version in environment.versions.items() if name != "edgeseg"},
        "git_revision": environment.git_revision,
    }


def _machine(environment: Environment) -> dict[str, Any]:
    fast = [flag for flag in environment.cpu_flags if flag in FAST_INT8_FLAGS]
    return {
        "device": environment.device,
        "system": environment.system,
        "processor": platform.machine(),
        "cpu": environment.cpu,
        "cpu_flags": list(environment.cpu_flags),
        "has_fast_int8": bool(fast),
        "num_cores": environment.num_cores,
        "num_usable_cores": environment.num_usable_cores,
        "governor": environment.governor,
        "memory_bytes": environment.memory_bytes,
    }


def _run_provider(onnxruntime: Any, name: str) -> dict[str, Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if name != CPU_PROVIDER:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints when it falls back
            session = onnxruntime.InferenceSession(ONE_NODE_MODEL, options, providers=[name])
        started = time.perf_counter()
        (found,) = session.run(None, {"x": _INPUT})
        time_ms = 1e3 * (time.perf_counter() - started)
    except Exception as error:  # noqa: BLE001  ONNX Runtime's errors have no class of their own
        return {"provider": name, "runs": False, "time_ms": None, "detail": str(error)}
    used = session.get_providers()[0]
    if used != name:
        detail = f"fell back to {used}"
    elif found.tolist() != _EXPECTED:
        detail = f"computed {found.tolist()} instead of {_EXPECTED}"
    else:
        return {"provider": name, "runs": True, "time_ms": time_ms, "detail": "ok"}
    return {"provider": name, "runs": False, "time_ms": None, "detail": detail}


def _run_device(core: Any, name: str) -> dict[str, Any]:
    failed = {"device": name, "runs": False, "time_ms": None}
    try:
        model = core.compile_model(core.read_model(ONE_NODE_MODEL), name)
        started = time.perf_counter()
        found = model(_INPUT)[0]
        time_ms = 1e3 * (time.perf_counter() - started)
        title = core.get_property(name, "FULL_DEVICE_NAME")
    except RuntimeError as error:
        return {**failed, "detail": _one_line(error)}
    if found.tolist() != _EXPECTED:
        return {**failed, "detail": f"computed {found.tolist()} instead of {_EXPECTED}"}
    return {"device": name, "runs": True, "time_ms": time_ms, "detail": title}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _has_backend(information: str, name: str) -> bool:
    return re.search(rf"^\s*{name}:\s+YES", information, re.MULTILINE) is not None


def _is_writable(folder: Path) -> bool:
    """Tell whether files can be made in a folder, or the folder itself; leaves nothing behind."""
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))  # noqa: PTH110 - Path.exists raises where a folder above may not be searched
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return False
    try:
        with tempfile.TemporaryFile(dir=existing):
            return True
    except OSError:
        return False


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
