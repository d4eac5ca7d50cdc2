"""Says which convolutions are faster in Winograd's form, from times that were measured.

They stand in `winograd_gains.json`, which `benchmarks/winograd_layers.py` writes: for each engine and
form, the time over that of the plain convolution with one thread, by channels and tiles, of maps that hold whole tiles only.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeseg_runtime.onnx.winograd import Choice, Layer

__all__ = ["FILE", "MAX_RATIO", "MAX_THREADS", "Table", "choice_for", "read_tables"]

MAX_THREADS = 8
"""With up to so many threads the ratio is estimated from that with one."""
MAX_RATIO = 0.93
"""A layer is rewritten where it takes at most this share of its time; measured shares err by some hundredths."""

FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True, kw_only=True)
class Table:
    """What was measured of one form with one engine.

    Attributes:
        engine: such as "onnxruntime".
        tile: side of the blocks of results, see `winograd.rewrite`.
        has_many_maps: of batches of small maps, as heads have them that look at one box after the other.
        channels: ascending; in and out alike.
        tiles: ascending, of all maps together.
        ratios: time over the plain convolution's, a row for each of `channels`; None where it was not measured.
        serial: the same for the part of it that the engine computes with one thread, however many it has.
    """

    engine: str
    tile: int
    has_many_maps: bool
    channels: tuple[int, ...]
    tiles: tuple[int, ...]
    ratios: tuple[tuple[float | None, ...], ...]
    serial: tuple[tuple[float | None, ...], ...]

    def ratio(self, layer: Layer, threads: int = 1) -> float:
        """Return the estimated time of a layer over the plain convolution's; infinite for smaller ones than were measured.

        More threads share the work of the plain convolution, and that of the other form but for a part, whose
        share of the time so grows with their number (Amdahl's law).
        """
        num_tiles = layer.num_tiles(self.tile)
        # Moving the tiles costs as much for each channel that is read, or written, whatever the others are.
        channels = 2 / (1 / layer.channels + 1 / layer.out)
        if channels < self.channels[0] or num_tiles < self.tiles[0]:
            return math.inf
        waste = num_tiles * self.tile**2 / (layer.maps * layer.height * layer.width)
        one, serial = (
            _interpolated(
                channels, self.channels, [_interpolated(num_tiles, self.tiles, row) for row in rows]
            )
            for rows in (self.ratios, self.serial)
        )
        return (one + (threads - 1) * serial) * waste


def choice_for(engine: str, threads: int, tables: Iterable[Table] | None = None) -> Choice:
    """Return what picks the form of each layer for an engine.

    Args:
        engine: as in `backends.BACKENDS`.
        threads: of the engine; with more than `MAX_THREADS` no layer is rewritten.
        tables: what was measured; what comes with the runtime if None.
    """
    measured = read_tables() if tables is None else tables
    fitting = [table for table in measured if table.engine == engine and threads <= MAX_THREADS]

    def choose(layer: Layer) -> int | None:
        ratios = {
            table.tile: table.ratio(layer, threads)
            for table in fitting
            if table.has_many_maps == (layer.maps > 1)
        }
        best = min(ratios, key=ratios.__getitem__, default=None)
        return best if best is not None and ratios[best] <= MAX_RATIO else None

    return choose


@functools.cache
def read_tables() -> tuple[Table, ...]:
    """Return the tables that come with the runtime."""
    entries = json.loads(FILE.read_text(encoding="utf-8"))["tables"]
    return tuple(
        Table(
            engine=entry["engine"],
            tile=entry["tile"],
            has_many_maps=entry["has_many_maps"],
            channels=tuple(entry["channels"]),
            tiles=tuple(entry["tiles"]),
            ratios=tuple(map(tuple, entry["ratios"])),
            serial=tuple(map(tuple, entry["serial"])),
        )
        for entry in entries
    )


def _interpolated(value: float, places: Sequence[int], ratios: Sequence[float | None]) -> float:
    """Return the ratio at a place between two that were measured; above them the last one's, below them infinity."""
    known = {
        math.log2(place): ratio
        for place, ratio in zip(places, ratios, strict=True)
        if ratio is not None and math.isfinite(ratio)
    }
    if not known or math.log2(value) < min(known):
        return math.inf
    return float(np.interp(math.log2(value), list(known), list(known.values())))
