"""Measures `edgeseg run`, which reads, computes and writes at the same time, beside a loop that does one after the other.

    python benchmarks/streams.py --out benchmarks/results/streams.json
    python benchmarks/streams.py --soak 10000 --out benchmarks/results/streams_soak.json

In one run and in turns: the loop, the stream, and each stage alone. A stream can be as fast as its slowest stage alone, and
no faster than the cores allow for the processor time that the loop takes for a picture; the ratio to the smaller
of the two is what counts. The soak follows the memory of a stream of many frames.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import edgeseg
import edgeseg_runtime
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.interference import Interference, findings_of, interference_between
from edgeseg_bench.system import read_counters
from edgeseg_runtime import Frame, Predictor, Source
from edgeseg_runtime.bundle.files import write_atomic
from edgeseg_runtime.commands.recording import output_folder, record
from edgeseg_runtime.commands.writing import Canvas, Drawing, JsonList, canvases
from edgeseg_runtime.environment import read_environment, usable_cores
from edgeseg_runtime.outputs import OutputFolder
from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.progress import silent
from edgeseg_runtime.results import Result

MODEL = "maskrcnn_tiny"
PICTURE_SIZE = 720, 1280
SCORE = 0.3
WAYS = ("loop", "stream", "read", "compute", "write")
SOAK_SAMPLES = 200
SOAK_IMAGE_SIZE, SOAK_PICTURE_SIZE = (64, 64), (144, 256)
"""Small, so that many frames take minutes."""


@dataclass(frozen=True)
class Sample:
    """One pass over all frames: seconds by the clock and by the processors."""

    wall_s: float
    cpu_s: float


def main() -> None:
    """Measures, prints and records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--soak", type=int, help="frames of a stream whose memory is followed")
    parser.add_argument("--out", type=Path, help="file to write, as .json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        size = None if arguments.soak is None else SOAK_IMAGE_SIZE
        model = edgeseg.create_model(MODEL, weights="shapes", image_size=size)
        folder = edgeseg.export_bundle(model, place / "bundle", num_images=1)
        if arguments.soak is None:
            found: Any = list(measurements(folder, place, arguments.frames, arguments.rounds))
        else:
            found = soak(folder, place, arguments.soak)
    if arguments.out is not None:
        document = {
            "environment": dataclasses.asdict(read_environment()),
            "model": MODEL,
            "picture_size": PICTURE_SIZE if arguments.soak is None else SOAK_PICTURE_SIZE,
            "cores": len(usable_cores()),
            "measurements": found,
        }
        write_atomic(arguments.out, (json.dumps(document, indent=1) + "\n").encode())


# ---------------------------------------------------------------- speed


def measurements(
    folder: Path, place: Path, num_frames: int, num_rounds: int
) -> Iterator[dict[str, Any]]:
    """Yields what was measured of each source and number of threads."""
    sources = {"video": video(place, num_frames), "folder": pictures(place, num_frames)}
    for kind, path in sources.items():
        for threads in (1, 2):
            with edgeseg_runtime.load(folder, backend="onnxruntime", threads=threads) as predictor:
                predictor.warm_up(num_runs=5)
                before = read_counters()
                samples = measured(predictor, path, place, num_rounds)
                seen = interference_between(before, read_counters())
            yield {**report(kind, threads, num_frames, samples), **disturbance(seen)}


def measured(
    predictor: Predictor[Any], path: Path, place: Path, num_rounds: int
) -> dict[str, list[Sample]]:
    """Returns the samples of each way, taken in turns; a first round warms up and does not count."""
    frames = list(Source(path))
    results = [predictor(frame.image) for frame in frames]
    ways: dict[str, Callable[[Path], None]] = {
        "loop": lambda out: loop(predictor, path, out),
        "stream": lambda out: stream(predictor, path, out),
        "read": lambda _: exhaust(Source(path)),
        "compute": lambda _: compute(predictor, frames),
        "write": lambda out: write(path, out, zip(frames, results, strict=True)),
    }
    samples: dict[str, list[Sample]] = {way: [] for way in ways}
    for number in range(num_rounds + 1):
        order = list(ways) if number % 2 == 0 else list(reversed(ways))
        for way in order:
            with tempfile.TemporaryDirectory(dir=place) as out:
                sample = timed(functools.partial(ways[way], Path(out)))
            if number:
                samples[way].append(sample)
    return samples


def timed(call: Callable[[], None]) -> Sample:
    """Returns what a call takes; processor time is that of all threads."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    call()
    return Sample(time.perf_counter() - wall_s, time.process_time() - cpu_s)


def loop(predictor: Predictor[Any], path: Path, out: Path) -> None:
    """Reads, computes and writes one frame after the other, as a plain program does."""
    with predictor.session() as session:
        write(path, out, ((frame, session(frame.image)) for frame in Source(path)))


def stream(predictor: Predictor[Any], path: Path, out: Path) -> None:
    """Does what `edgeseg run` does."""
    source = Source(path)
    outputs = folder_of(source, out)
    record(predictor, [source], outputs, score=SCORE, stop=threading.Event(), progress=silent)


def compute(predictor: Predictor[Any], frames: list[Frame]) -> None:
    """Finds what is in frames that are there already."""
    with predictor.session() as session:
        for frame in frames:
            session(frame.image)


def write(path: Path, out: Path, pairs: Iterator[tuple[Frame, Result]]) -> None:
    """Draws and writes results, by the means of `edgeseg run`."""
    source = Source(path)
    outputs = folder_of(source, out)
    with outputs, JsonList(outputs) as results:
        canvas: Canvas
        (canvas,) = canvases([source], outputs, Drawing())
        with canvas:
            for frame, found in pairs:
                kept = found.filter(score=SCORE)
                canvas.add(frame, kept)
                results.add(frame.index, frame, kept)


def folder_of(source: Source, out: Path) -> OutputFolder:
    """Returns where a run writes."""
    return output_folder([source], out, drawing=Drawing(), writes_json=True, overwrite=False)


def exhaust(source: Source) -> None:
    """Reads every frame."""
    for _ in source:
        pass


def report(
    kind: str, threads: int, num_frames: int, samples: dict[str, list[Sample]]
) -> dict[str, Any]:
    """Prints and returns the figures of one source and number of threads.

    Each round is compared with itself: the machine's speed changes from round to round.
    """
    cores = len(usable_cores())
    ratios, gains = [], []
    for sample in zip(*samples.values(), strict=True):
        of = dict(zip(samples, sample, strict=True))
        slowest_s = max(of[way].wall_s for way in ("read", "compute", "write"))
        least_s = max(slowest_s, of["loop"].cpu_s / cores)
        ratios.append(least_s / of["stream"].wall_s)
        gains.append(of["loop"].wall_s / of["stream"].wall_s)
    medians = {
        way: {
            "ms": 1e3 * statistics.median(s.wall_s for s in own) / num_frames,
            "cpu_ms": 1e3 * statistics.median(s.cpu_s for s in own) / num_frames,
        }
        for way, own in samples.items()
    }
    ratio, gain = statistics.median(ratios), statistics.median(gains)
    stages = ", ".join(
        f"{way} {own['ms']:.1f} ({own['cpu_ms']:.1f})" for way, own in medians.items()
    )
    print(
        f"{kind}, {threads} threads: {1e3 / medians['stream']['ms']:.1f} frames per second, {ratio:.3f} of "
        f"what is possible, {gain:.2f} x the loop; ms (of processors) per frame: {stages}",
        flush=True,
    )
    return {
        "source": kind,
        "threads": threads,
        "num_frames": num_frames,
        "ratio_to_bound": ratio,
        "speed_over_loop": gain,
        "per_frame": medians,
        "samples": {way: [dataclasses.asdict(s) for s in own] for way, own in samples.items()},
    }


def disturbance(seen: Interference) -> dict[str, Any]:
    """Prints and returns what else took the cores meanwhile: with it the ratios say nothing."""
    texts = [f.text for f in findings_of(seen, disturbed_rounds={}, disturbed_ratios={})]
    if texts:
        print(f"    not to be trusted: {'; '.join(texts)}", flush=True)
    return {"interference": dataclasses.asdict(seen), "findings": texts}


# ---------------------------------------------------------------- sources


def scenes(count: int, size: tuple[int, int] = PICTURE_SIZE) -> Iterator[Image]:
    """Yields drawn pictures of a size, such as that of a camera's, four of the data set's in each."""
    dataset = open_dataset("shapes", limit=min(4 * count, 80))
    height, width = size
    for number in range(count):
        parts = [dataset[(4 * number + k) % len(dataset)].image for k in range(4)]
        half = [cv2.resize(part, (width // 2, height // 2)) for part in parts]
        picture = np.concatenate([np.concatenate(half[:2], 1), np.concatenate(half[2:], 1)], 0)
        yield np.ascontiguousarray(picture.astype(np.uint8))


def video(place: Path, count: int, size: tuple[int, int] = PICTURE_SIZE) -> Path:
    """Writes a video and returns its path."""
    path = place / "scenes.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, size[::-1])
    for picture in scenes(count, size):
        writer.write(picture)
    writer.release()
    return path


def pictures(place: Path, count: int) -> Path:
    """Writes a folder of pictures and returns its path."""
    folder = place / "scenes"
    folder.mkdir()
    for number, picture in enumerate(scenes(count)):
        cv2.imwrite(str(folder / f"{number:05}.jpg"), picture)
    return folder


# ---------------------------------------------------------------- memory


class Repeated(Source):
    """The frames of a video again and again, as one long video."""

    def __init__(self, path: Path, count: int) -> None:
        super().__init__(path)
        self._count = count

    def frames(self, *, stop: threading.Event | None = None) -> Iterator[Frame]:  # type: ignore[override]
        """Yields so many frames."""
        number = 0
        while number < self._count:
            for frame in super().frames(stop=stop):
                if number == self._count or (stop is not None and stop.is_set()):
                    return
                yield dataclasses.replace(frame, index=number)
                number += 1


def soak(folder: Path, place: Path, count: int) -> dict[str, Any]:
    """Returns the memory of a process in the course of a stream whose results are drawn, and its slope."""
    used: list[tuple[int, int]] = []
    source = Repeated(video(place, 60, SOAK_PICTURE_SIZE), count)
    with edgeseg_runtime.load(folder, backend="onnxruntime", threads=1) as predictor:
        for frame, found in predictor.stream_frames(source):
            found.filter(score=SCORE).draw(frame.image)
            found.filter(score=SCORE).to_json()
            if frame.index % (count // SOAK_SAMPLES) == 0:
                used.append((frame.index, resident_bytes()))
    late = np.array(used[len(used) // 4 :], np.float64)
    slope = float(np.polyfit(late[:, 0], late[:, 1], 1)[0]) * 1000 / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count} frames: {slope:.3f} MiB per 1000 frames, {peak:.0f} MiB at most")
    return {"num_frames": count, "slope_mib_per_1000": slope, "peak_mib": peak, "resident": used}


def resident_bytes() -> int:
    """Returns the memory of this process."""
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
