"""Says which convolutions are faster in Winograd's form, from times that were measured.

They stand in `winograd_gains.json`, which `benchmarks/winograd_layers.py` writes: for each engine, number of threads and
form, the time over that of the plain convolution, by channels and tiles, of maps that hold whole tiles only.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeseg_runtime.onnx.winograd import Choice, Layer

__all__ = ["FILE", "MAX_RATIO", "MAX_THREADS", "Table", "choice_for", "read_tables"]

MAX_THREADS = 8
"""With up to so many threads the ratio is estimated from that with one and two."""
MAX_RATIO = 0.93
"""A layer is rewritten where it takes at most this share of its time; measured shares err by some hundredths."""

FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True, kw_only=True)
class Table:
    """What was measured of one form with one engine.

    Attributes:
        engine: such as "onnxruntime".
        threads: of the engine.
        tile: side of the blocks of results, see `winograd.rewrite`.
        has_many_maps: of batches of small maps, as heads have them that look at one box after the other.
        channels: ascending; in and out alike.
        tiles: ascending, of all maps together.
        ratios: time over the plain convolution's, a row for each of `channels`; None where it was not measured.
    """

    engine: str
    threads: int
    tile: int
    has_many_maps: bool
    channels: tuple[int, ...]
    tiles: tuple[int, ...]
    ratios: tuple[tuple[float | None, ...], ...]

    def ratio(self, layer: Layer) -> float:
        """Return the estimated time of a layer over the plain convolution's; infinite for smaller ones than were measured."""
        num_tiles = layer.num_tiles(self.tile)
        # Moving the tiles costs as much for each channel that is read, or written, whatever the others are.
        channels = 2 / (1 / layer.channels + 1 / layer.out)
        if channels < self.channels[0] or num_tiles < self.tiles[0]:
            return math.inf
        rows = [_interpolated(num_tiles, self.tiles, row) for row in self.ratios]
        waste = num_tiles * self.tile**2 / (layer.maps * layer.height * layer.width)
        return _interpolated(channels, self.channels, rows) * waste


def choice_for(engine: str, threads: int, tables: Iterable[Table] | None = None) -> Choice:
    """Return what picks the form of each layer for an engine.

    Args:
        engine: as in `backends.BACKENDS`.
        threads: of the engine; with more than `MAX_THREADS` no layer is rewritten.
        tables: what was measured; what comes with the runtime if None.
    """
    forms: dict[tuple[int, bool], dict[int, Table]] = {}
    for table in read_tables() if tables is None else tables:
        if table.engine == engine and threads <= MAX_THREADS:
            forms.setdefault((table.tile, table.has_many_maps), {})[table.threads] = table

    def choose(layer: Layer) -> int | None:
        ratios = {
            tile: _ratio(layer, threads, measured)
            for (tile, has_many_maps), measured in forms.items()
            if has_many_maps == (layer.maps > 1)
        }
        best = min(ratios, key=ratios.__getitem__, default=None)
        return best if best is not None and ratios[best] <= MAX_RATIO else None

    return choose


def _ratio(layer: Layer, threads: int, measured: Mapping[int, Table]) -> float:
    """Return the estimated ratio with so many threads.

    With more than were measured: the plain convolution's work is shared by all, of the other form a part is not, so that the
    ratio grows by as much with each further thread (Amdahl's law).
    """
    ratios = {count: table.ratio(layer) for count, table in measured.items()}
    if threads in ratios:
        return ratios[threads]
    if not {1, 2} <= ratios.keys() or math.inf in ratios.values():
        return math.inf
    return ratios[1] + (threads - 1) * max(0.0, ratios[2] - ratios[1])


@functools.cache
def read_tables() -> tuple[Table, ...]:
    """Return the tables that come with the runtime."""
    entries = json.loads(FILE.read_text(encoding="utf-8"))["tables"]
    return tuple(
        Table(
            engine=entry["engine"],
            threads=entry["threads"],
            tile=entry["tile"],
            has_many_maps=entry["has_many_maps"],
            channels=tuple(entry["channels"]),
            tiles=tuple(entry["tiles"]),
            ratios=tuple(map(tuple, entry["ratios"])),
        )
        for entry in entries
    )


def _interpolated(value: float, places: Sequence[int], ratios: Sequence[float | None]) -> float:
    """Return the ratio at a place between two that were measured; above them the last one's, below them infinity."""
    known = [
        (math.log2(place), math.log2(ratio))
        for place, ratio in zip(places, ratios, strict=True)
        if ratio is not None and math.isfinite(ratio)
    ]
    if not known or math.log2(value) < known[0][0]:
        return math.inf
    return float(2 ** np.interp(math.log2(value), *zip(*known, strict=True)))
