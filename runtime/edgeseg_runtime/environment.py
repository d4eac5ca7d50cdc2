"""Describes a machine and its software, for whoever reads a measurement or a complaint."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from edgeseg_runtime.libraries import import_library

__all__ = [
    "ROOT",
    "Environment",
    "portable",
    "read_environment",
    "read_text",
    "usable_cores",
]

ROOT = Path("/")
PACKAGES = (
    "edgeseg",
    "edgeseg-runtime",
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "torch",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "faster-coco-eval",
)
# What decides how fast float and int8 kernels can be on this CPU.
CPU_FLAGS = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)
HIDDEN_FLAGS_VARIABLE = "HIDDEN_CPU_FLAGS"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where and when something was measured. None = not known on this system.

    Attributes:
        time_utc: ISO 8601, seconds.
        command_line: of this process, see :func:`portable`.
        device: name of the board, such as a Jetson's.
        cpu: name of the CPU.
        cpu_flags: those of CPU_FLAGS that it has, less those that ``benchmarks/avx2_only.c`` hides.
        num_cores: logical cores of the machine.
        num_usable_cores: logical cores this process may use.
        governor: how the clock of core 0 is chosen.
        memory_bytes: of the machine.
        load_average: runnable processes over the last 1, 5 and 15 minutes, before measuring.
        system: operating system and kernel.
        python: version.
        versions: of the installed packages that matter.
        threads: environment variables that limit threads.
        git_revision: of the checkout that edgeseg runs from, with "-dirty" if changed.
        openvino_devices: what OpenVINO can run on, such as "CPU: AMD EPYC"; None without OpenVINO.
    """

    time_utc: str
    command_line: tuple[str, ...]
    device: str | None
    cpu: str
    cpu_flags: tuple[str, ...]
    num_cores: int
    num_usable_cores: int
    governor: str | None
    memory_bytes: int | None
    load_average: tuple[float, float, float] | None
    system: str
    python: str
    versions: dict[str, str]
    threads: dict[str, str]
    git_revision: str | None
    openvino_devices: tuple[str, ...] | None = None


def portable(argument: str) -> str:
    """Return an argument for a record: of an absolute path the last part, the rest is this machine's."""
    return Path(argument).name if Path(argument).is_absolute() else argument


def read_environment() -> Environment:
    """Describe this process's machine now."""
    cpuinfo = read_text(ROOT / "proc/cpuinfo") or ""
    return Environment(
        time_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command_line=(Path(sys.argv[0]).name, *map(portable, sys.argv[1:])),
        device=read_text(ROOT / "proc/device-tree/model"),
        cpu=_cpu_name(cpuinfo),
        cpu_flags=_cpu_flags(cpuinfo),
        num_cores=os.cpu_count() or 1,
        num_usable_cores=len(usable_cores()),
        governor=read_text(ROOT / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        memory_bytes=_memory_bytes(),
        load_average=os.getloadavg() if hasattr(os, "getloadavg") else None,
        system=platform.platform(),
        python=platform.python_version(),
        versions=_versions(),
        threads={name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        git_revision=_git_revision(Path(__file__).parent),
        openvino_devices=_openvino_devices(),
    )


def read_text(path: Path) -> str | None:
    """Return the text of a file without NUL and white space around it; None if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return None


def usable_cores() -> tuple[int, ...]:
    """Return the numbers of the logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _cpu_name(cpuinfo: str) -> str:
    match = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return match[1] if match else platform.processor() or platform.machine()


def _cpu_flags(cpuinfo: str) -> tuple[str, ...]:
    match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    present = set(match[1].split()) if match else set()
    present -= set(os.environ.get(HIDDEN_FLAGS_VARIABLE, "").split())
    return tuple(flag for flag in CPU_FLAGS if flag in present)


def _memory_bytes() -> int | None:
    match = re.search(
        r"^MemTotal:\s*(\d+) kB", read_text(ROOT / "proc/meminfo") or "", re.MULTILINE
    )
    return int(match[1]) * 1024 if match else None


def _versions() -> dict[str, str]:
    found = {package: _version(package) for package in PACKAGES}
    return {package: version for package, version in found.items() if version is not None}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _openvino_devices() -> tuple[str, ...] | None:
    try:
        core = import_library("openvino").Core()
        return tuple(
            f"{name}: {core.get_property(name, 'FULL_DEVICE_NAME')}"
            for name in core.available_devices
        )
    except (ImportError, RuntimeError):  # a driver of a device that does not work, say
        return None


def _git_revision(folder: Path) -> str | None:
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
