"""What goes into and comes out of the families' graphs alike, as their manifests name it; imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from edgeseg_runtime.bundle.graphs import TensorSpec

NOTHING: Mapping[str, tuple[int, ...]] = MappingProxyType({})


def picture(
    image_size: tuple[int, int], *, knows_size: bool = False, takes_fraction: bool = False
) -> tuple[TensorSpec, ...]:
    """Return the inputs that a picture becomes.

    Args:
        image_size: height and width of the network input.
        knows_size: the network is told how much of it the picture covers.
        takes_fraction: the network gets the grey levels' fractions, too, as resizing in floating point leaves them.
    """
    image = TensorSpec(name="image", dtype="uint8", shape=(1, *image_size, 3))
    size = TensorSpec(name="image_size", dtype="int32", shape=(1, 2))
    fraction = dataclasses.replace(image, name="image_fraction")
    return (image, *((size,) if knows_size else ()), *((fraction,) if takes_fraction else ()))


def detections(
    num_rows: int, parts: Mapping[str, tuple[int, ...]] = NOTHING
) -> tuple[TensorSpec, ...]:
    """Return the outputs with a row for each detection: boxes, scores, labels, and further parts.

    Args:
        num_rows: of each.
        parts: what else there is of a detection -> its shape.
    """
    return (
        floats("boxes", num_rows, 4),
        floats("scores", num_rows),
        TensorSpec(name="labels", dtype="int32", shape=(1, num_rows)),
        *(floats(name, num_rows, *shape) for name, shape in parts.items()),
    )


def floats(name: str, *shape: int) -> TensorSpec:
    """Return a tensor of float32; the shape is that behind the batch axis."""
    return TensorSpec(name=name, dtype="float32", shape=(1, *shape))
