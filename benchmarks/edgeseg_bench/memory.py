"""Measures the peak memory of a predictor in a process of its own.

The peak of the benchmark's own process says little: it holds every backend, the pictures and torch. So a fresh
process opens the predictor, runs pictures of noise and reports its peak resident set.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg_runtime.errors import BackendError

RUNTIME = "edgeseg_runtime:load"


@dataclass(frozen=True, kw_only=True)
class PeakMemory:
    """Resident memory of a process that runs one predictor.

    Attributes:
        peak_bytes: the most it ever held.
        before_bytes: the most it had held before the predictor was opened: Python, numpy and cv2.
    """

    peak_bytes: int
    before_bytes: int


def peak_memory(
    folder: str | Path,
    options: Mapping[str, Any],
    *,
    opener: str = RUNTIME,
    image_size: tuple[int, int] = (480, 640),
    num_runs: int = 5,
    timeout_seconds: float = 600.0,
) -> PeakMemory:
    """Open and run a bundle in a fresh process and return its peak resident memory.

    Memory on a GPU is not part of it.

    Args:
        folder: the bundle.
        options: of the opener, as JSON can hold them; `backend` and `threads` for instance.
        opener: "module:function", called as `function(folder, **options)`; returns a predictor.
        image_size: height and width of the pictures to run, which hold noise.
        num_runs: how many pictures.
        timeout_seconds: give up after this long.

    Raises:
        BackendError: the process failed; the message holds the end of what it wrote.
    """
    command = [sys.executable, "-m", "edgeseg_bench.memory", str(folder), "--opener", opener]
    command += ["--options", json.dumps(dict(options))]
    command += ["--image-size", str(image_size[0]), str(image_size[1]), "--runs", str(num_runs)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_seconds, check=True
        )
    except subprocess.CalledProcessError as error:
        raise BackendError(
            f"Measuring the memory of {folder} with {dict(options)} failed (exit status {error.returncode}): "
            f"{error.stderr.strip()[-2000:]}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise BackendError(
            f"Measuring the memory of {folder} with {dict(options)} took more than {timeout_seconds:.0f} s. "
            "Allow more time, or build the engine first."
        ) from error
    return PeakMemory(**json.loads(done.stdout.splitlines()[-1]))


def peak_rss_bytes() -> int:
    """Return the most resident memory that this process has held.

    Linux keeps `ru_maxrss` across exec, so a child starts with its parent's peak: VmHWM of /proc starts anew.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Run in the fresh process: write one JSON line with the fields of PeakMemory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--opener", required=True)
    parser.add_argument("--options", type=json.loads, required=True)
    parser.add_argument("--image-size", type=int, nargs=2, required=True)
    parser.add_argument("--runs", type=int, required=True)
    options = parser.parse_args(arguments)

    import edgeseg_runtime  # noqa: F401  what was there before counts it

    before = peak_rss_bytes()
    rng = np.random.default_rng(0)
    module, _, function = options.opener.partition(":")
    open_predictor = getattr(importlib.import_module(module), function)
    with open_predictor(options.folder, **options.options) as predictor:
        for _ in range(options.runs):
            predictor(rng.integers(0, 256, (*options.image_size, 3), dtype=np.uint8))
    memory = PeakMemory(peak_bytes=peak_rss_bytes(), before_bytes=before)
    sys.stdout.write(json.dumps(asdict(memory)) + "\n")


if __name__ == "__main__":
    main()
