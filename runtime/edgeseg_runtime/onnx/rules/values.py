"""What is known of a value, and what the rules ask of a node and its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg_runtime.onnx.model import Node

MAX_RANK = 8
MAX_EVALUATED = 4096
"""Elements up to which a value is computed here."""
BOOL, INT32, INT64, UINT8, FLOAT = 9, 6, 7, 2, 1
INTEGERS = frozenset({2, 3, 4, 5, 6, 7, 12, 13})

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """What is known of a value.

    Attributes:
        dtype: key of `onnx.model.DTYPES`, None if unknown.
        shape: sizes, those of free axes filled in; None if unknown, as behind an operator of the user's own.
        data: its numbers, as far as they are few and do not depend on the graph's inputs.
        is_constant: whether an engine may compute it when it loads the model, and keep it.
    """

    dtype: int | None
    shape: Shape | None
    data: npt.NDArray[Any] | None = None
    is_constant: bool = False

    @property
    def num_elements(self) -> int:
        """How many numbers it has; 0 if that is unknown."""
        return 0 if self.shape is None else math.prod(self.shape)


Inputs = Sequence[Any]  # of Value with a known shape, or None
Outputs = list[Value]
Rule = Callable[[Node, Inputs], Outputs]


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """Return the shape of values that are stretched to each other."""
    rank = max(map(len, shapes))
    result = []
    for sizes in zip(*((1,) * (rank - len(shape)) + tuple(shape) for shape in shapes), strict=True):
        others = {size for size in sizes if size != 1}
        if len(others) > 1:
            raise ValueError(f"joins {', '.join(str(list(shape)) for shape in shapes[:8])}")
        result.append(others.pop() if others else 1)
    return tuple(result)


def require(condition: bool, problem: str | Callable[[], str]) -> None:
    """Raise ValueError with what is wrong, which may be written only then, unless a condition holds."""
    if not condition:
        raise ValueError(problem if isinstance(problem, str) else problem())


def mismatch(x: Inputs) -> Callable[[], str]:
    """Return what writes the shapes of inputs that do not fit; they may be many."""
    return lambda: (
        f"joins {', '.join('nothing' if v is None else str(list(v.shape)) for v in x[:8])}"
    )


def as_axis(axis: int, rank: int) -> int:
    """Return an axis that may be counted from the end as one counted from the start."""
    require(-rank <= axis < rank, f"has the axis {axis} of {rank}")
    return axis % rank


def as_axes(axes: Sequence[int], rank: int) -> set[int]:
    """Return several axes counted from the start, each of which may be named once."""
    found = {as_axis(axis, rank) for axis in axes}
    require(len(found) == len(axes), "names an axis twice")
    return found


def numbers_of(x: Inputs, index: int) -> list[Any]:
    """Return the numbers of an input that a shape depends on."""
    value = x[index] if len(x) > index else None
    require(value is not None, f"has no input {index}")
    assert value is not None
    require(
        value.data is not None and len(value.shape) <= 1,
        f"has a shape that is computed: its input {index} is neither constant nor a few sizes",
    )
    assert value.data is not None
    numbers: list[Any] = np.atleast_1d(value.data).tolist()
    return numbers


def ints_of(x: Inputs, index: int) -> list[int]:
    """Return the whole numbers of an input that a shape depends on."""
    numbers = numbers_of(x, index)
    require(all(isinstance(number, int) for number in numbers), f"has {numbers[:8]} as sizes")
    return numbers


def scalar_of(x: Inputs, index: int) -> int:
    """Return the one whole number of an input that a shape depends on."""
    numbers = numbers_of(x, index)
    is_whole = len(numbers) == 1 and math.isfinite(numbers[0]) and numbers[0] == int(numbers[0])
    require(is_whole, f"has {numbers[:8]} where one whole number is expected")
    return int(numbers[0])
