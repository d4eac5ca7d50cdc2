"""Tells which Loops end: those with a count, and those in the forms that edgeseg writes.

A Loop without a count runs for as long as its body says so. The bodies of `edgeseg::Nms` and
`edgeseg::AtlasRoiAlign` stop by themselves in one of three forms, which are proven here rather
than believed:

counter       a state grows by a constant in each step and is compared with a bound that no picture
              can lift above a known number
tiles         two states (row, column) count the tiles of a triangle, column by column
fixed point   each element of the only state depends on those before it alone, so nothing changes any
              more after as many steps as there are elements; it stops when nothing changed
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgeseg_runtime.onnx.model import Graph, Node
from edgeseg_runtime.onnx.rules.values import BOOL, Value

__all__ = ["MAX_STEPS", "Scope", "check_end"]

MAX_STEPS = 2**18
"""Of a Loop; `edgeseg::AtlasRoiAlign` takes up to 131583 for boxes that no map is large enough for."""
_EXACT = 2**24
"""Whole numbers below which float32 counts."""
_COUNTING = frozenset({1, 6, 7, 11})
"""Element types that count so far: float32, int32, int64, float64."""
_FLOATS = frozenset({1, 10, 11})
_MAX_DEPTH = 40
_MAX_LOOKUPS = 10_000

Bounds = tuple[float, float]
_ANYTHING: Bounds = (-math.inf, math.inf)


@dataclass(frozen=True)
class Scope:
    """What a body can see.

    Attributes:
        values: by name.
        makers: the node that makes a value; none for constants and inputs.
    """

    values: Mapping[str, Value]
    makers: Mapping[str, Node]

    def made(self, name: str, operator: str) -> Node | None:
        """Return the node that makes a value if it is of this operator."""
        node = self.maker(name)
        return node if node is not None and node.operator == operator else None

    def maker(self, name: str) -> Node | None:
        """Return the node that makes a value, behind those that only rename it."""
        node = self.makers.get(name)
        for _ in range(_MAX_DEPTH):
            if node is None or node.domain or node.operator != "Identity":
                break
            node = self.makers.get(node.inputs[0])
        return None if node is None or node.domain else node

    def number(self, name: str) -> float | None:
        """Return the only number of a constant."""
        value = self.values.get(name)
        if value is None or value.data is None or value.data.size != 1:
            return None
        return float(value.data.reshape(-1)[0])


@dataclass(frozen=True)
class _Loop:
    """A Loop whose end is to be proven.

    Attributes:
        scope: inside of its body.
        outside: names that do not change from step to step.
        before: states at the beginning of a step.
        after: at its end, in the same order.
        start: what the states are before the first step.
    """

    scope: Scope
    outside: Mapping[str, Value]
    before: tuple[str, ...]
    after: tuple[str, ...]
    start: tuple[str, ...]

    def following(self, name: str) -> str | None:
        """Return the value that a state has after the step."""
        return self.after[self.before.index(name)] if name in self.before else None

    def starts_at(self, name: str) -> float | None:
        """Return what a state is before the first step, if that is a constant."""
        return self.scope.number(self.start[self.before.index(name)])


def check_end(node: Node, body: Graph, scope: Scope, outside: Mapping[str, Value]) -> None:
    """Check that a Loop ends.

    Args:
        node: the Loop.
        body: its body.
        scope: what is known inside of the body.
        outside: values from around the body.

    Raises:
        ValueError: if that cannot be seen.
    """
    if node.inputs[0]:
        count = scope.number(node.inputs[0])
        if count is None or not 0 <= count <= MAX_STEPS:
            raise ValueError(f"takes a number of steps that is not a constant up to {MAX_STEPS}")
        return
    names = [value.name for value in body.inputs]
    outputs = [value.name for value in body.outputs]
    loop = _Loop(scope, outside, tuple(names[2:]), tuple(outputs[1:]), node.inputs[2:])
    forms = (_is_counter, _is_tiles, _is_fixed_point)
    if not any(form(loop, part) for part in _conjuncts(scope, outputs[0]) for form in forms):
        raise ValueError(
            "may run without end: it has no number of steps, and its condition is in none of the "
            "forms that edgeseg writes"
        )


def _is_counter(loop: _Loop, condition: str) -> bool:
    """Tell whether the loop goes on while state + constant < bound."""
    scaled, factor, bound = _growing(loop, condition)
    added = loop.scope.made(scaled, "Add")
    if added is None or scaled not in loop.after:
        return False
    state = loop.before[loop.after.index(scaled)]
    for one, other in _orders(added):
        step, start = loop.scope.number(other), loop.starts_at(state)
        is_counted = one == state and loop.scope.values[state].dtype in _COUNTING
        if is_counted and step is not None and start is not None and step >= 1:
            return start > -_EXACT and (bound / factor - start) / step <= MAX_STEPS
    return False


def _is_tiles(loop: _Loop, condition: str) -> bool:
    """Tell whether it goes on while column' < bound, where row and column count a triangle from 0.

    column' = column + (row == column), row' = (row + 1) * (row < column).
    """
    scaled, factor, bound = _growing(loop, condition)
    added = loop.scope.made(scaled, "Add")
    if added is None or scaled not in loop.after:
        return False
    column = loop.before[loop.after.index(scaled)]
    rows = [
        row
        for one, other in _orders(added)
        for row in loop.before
        if one == column and _compared(loop.scope, other, "Equal") in ((row, column), (column, row))
    ]
    if not rows or not _is_next_row(loop, rows[0], column):
        return False
    size = bound / factor + 1
    return loop.starts_at(rows[0]) == loop.starts_at(column) == 0 and size * size <= MAX_STEPS


def _is_next_row(loop: _Loop, row: str, column: str) -> bool:
    following = loop.following(row)
    product = loop.scope.made(following or "", "Mul")
    for one, other in _orders(product):
        added = loop.scope.made(one, "Add")
        is_next = any(a == row and loop.scope.number(b) == 1 for a, b in _orders(added))
        if is_next and _compared(loop.scope, other, "Less") == (row, column):
            return True
    return False


def _is_fixed_point(loop: _Loop, condition: str) -> bool:
    """Tell whether it goes on while the only state changes, and each element follows from earlier ones.

    state'[j] = alive[j] * (1 - max over i of suppresses[i, j] * state[i]), suppresses[i, j] = 0
    unless i < j.
    """
    scope = loop.scope
    if len(loop.before) != 1 or not _is_change(loop, condition):
        return False
    for alive, rest in _orders(scope.made(loop.after[0], "Mul")):
        left = scope.made(rest, "Sub")
        largest = scope.made(left.inputs[1], "ReduceMax") if left else None
        if left is None or largest is None or scope.number(left.inputs[0]) != 1:
            continue
        for suppresses, column in _orders(scope.made(largest.inputs[0], "Mul")):
            turned = scope.made(column, "Transpose")
            is_over_rows = _axes_of(scope, largest) == [1] and largest.attribute("keepdims", 1)
            if (
                turned is not None
                and turned.attribute("perm") == [0, 2, 1]
                and is_over_rows
                and alive in loop.outside
                and suppresses in loop.outside
                and _is_triangular(loop, suppresses, turned.inputs[0])
            ):
                return True
    return False


def _is_change(loop: _Loop, condition: str) -> bool:
    """Tell whether a condition is max(abs(after - before)) > constant."""
    less = _less(loop.scope, condition)
    limit = loop.scope.number(less[0]) if less else None
    largest = loop.scope.made(less[1], "ReduceMax") if less else None
    size = loop.scope.made(largest.inputs[0], "Abs") if largest else None
    change = loop.scope.made(size.inputs[0], "Sub") if size else None
    ends = {loop.before[0], loop.after[0]}
    return change is not None and set(change.inputs) == ends and limit is not None and limit >= 0


def _is_triangular(loop: _Loop, suppresses: str, rows: str) -> bool:
    """Tell whether suppresses[i, j] is 0 unless i < j, or else the rows are not the state's."""
    condition = None
    if rows != loop.before[0]:  # those of another block, unless row and column are the same one
        chosen = loop.scope.made(rows, "Where")
        if chosen is None or chosen.inputs[1] != loop.before[0]:
            return False
        condition = loop.scope.maker(chosen.inputs[0])
        if chosen.inputs[0] not in loop.outside or chosen.inputs[2] not in loop.outside:
            return False
    for factor, other in _orders(loop.scope.made(suppresses, "Mul")):
        low, high = _Ranges(loop.scope).of(other)
        if not (math.isfinite(low) and math.isfinite(high)):
            continue
        if _is_upper(loop.scope.values.get(factor)):
            return True
        for constant, above in _orders(loop.scope.made(factor, "Max")):
            pair = _compared(loop.scope, above, "Less")
            is_same_block = condition is not None and condition.operator == "Equal"
            if (
                _is_upper(loop.scope.values.get(constant))
                and is_same_block
                and pair is not None
                and condition is not None
                and set(condition.inputs) == set(pair)
            ):
                return True
    return False


def _is_upper(value: Value | None) -> bool:
    if value is None or value.data is None or value.data.ndim < 2:
        return False
    is_square = value.data.shape[-1] == value.data.shape[-2]
    return is_square and bool((np.tril(value.data) == 0).all() and np.isfinite(value.data).all())


# ---------------------------------------------------------------- conditions


def _conjuncts(scope: Scope, name: str) -> Iterator[str]:
    """Yield the conditions that must all hold; a loop ends when one of them ends it."""
    pending = [name]
    for _ in range(_MAX_DEPTH):
        if not pending:
            return
        found = pending.pop()
        node = scope.made(found, "And")
        if node is None:
            yield found
        else:
            pending.extend(node.inputs)


def _less(scope: Scope, name: str) -> tuple[str, str] | None:
    """Return a and b of a < b, a <= b, b > a or b >= a."""
    node = scope.maker(name)
    if node is None or node.operator not in {"Less", "LessOrEqual", "Greater", "GreaterOrEqual"}:
        return None
    a, b = node.inputs
    return (a, b) if node.operator.startswith("Less") else (b, a)


def _growing(loop: _Loop, condition: str) -> tuple[str, float, float]:
    """Return value, factor and upper bound of a condition value * factor < bound; infinite if none."""
    less = _less(loop.scope, condition)
    if less is None or less[1] not in loop.outside:
        return "", 1.0, math.inf
    _, bound = _Ranges(loop.scope).of(less[1])
    if not -_EXACT < bound < _EXACT:
        return "", 1.0, math.inf
    for one, other in _orders(loop.scope.made(less[0], "Mul")):
        factor = loop.scope.number(other)
        if factor is not None and factor >= 1:
            return one, factor, bound
    return less[0], 1.0, bound


def _compared(scope: Scope, name: str, operator: str) -> tuple[str, str] | None:
    """Return what the truth value that a number was made from compares."""
    cast = scope.made(name, "Cast")
    node = scope.made(cast.inputs[0], operator) if cast else None
    return (node.inputs[0], node.inputs[1]) if node else None


def _orders(node: Node | None) -> tuple[tuple[str, str], ...]:
    """Return the two inputs of an operator in both orders."""
    if node is None or len(node.inputs) != 2:
        return ()
    a, b = node.inputs
    return ((a, b), (b, a))


def _axes_of(scope: Scope, node: Node) -> list[int] | None:
    if len(node.inputs) > 1:
        value = scope.values.get(node.inputs[1])
        return None if value is None or value.data is None else value.data.reshape(-1).tolist()
    axes: list[int] | None = node.attribute("axes")
    return axes


# ---------------------------------------------------------------- bounds


class _Ranges:
    """Between which numbers all elements of values lie, as far as they are numbers."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self._num_lookups = 0

    def of(self, name: str, known: Mapping[str, Bounds] | None = None, depth: int = 0) -> Bounds:
        """Return the bounds of one; `known` is what a condition says of some."""
        self._num_lookups += 1
        known = known or {}
        value = self.scope.values.get(name)
        if value is not None and value.data is not None and value.data.size:
            low, high = float(value.data.min()), float(value.data.max())
            return _ANYTHING if math.isnan(low + high) else (low, high)
        if value is not None and value.dtype == BOOL:
            return 0.0, 1.0
        node = self.scope.maker(name)
        found = known.get(name, _ANYTHING)
        if node is None or value is None or depth > _MAX_DEPTH or self._num_lookups > _MAX_LOOKUPS:
            return found
        if node.operator == "Where":
            chosen = {**known, **_known_from(self.scope, node.inputs[0])}
            every = [
                self.of(node.inputs[1], chosen, depth + 1),
                self.of(node.inputs[2], known, depth + 1),
            ]
        else:
            every = [self.of(item, known, depth + 1) for item in node.inputs]
        low, high = self._made(node, name, value, every)
        return max(low, found[0]), min(high, found[1])

    def _made(self, node: Node, name: str, value: Value, x: list[Bounds]) -> Bounds:
        operator = node.operator
        if operator in _KEEPING:
            is_kept = operator != "TopK" or name == node.outputs[0]
            is_kept &= operator != "Cast" or value.dtype in _FLOATS
            return x[0] if is_kept else _ANYTHING
        if operator in _COMBINED:
            lowest, highest = _COMBINED[operator]
            return lowest(low for low, _ in x), highest(high for _, high in x)
        if operator in _ROUNDED:
            low, high = (b if math.isinf(b) else float(_ROUNDED[operator](b)) for b in x[0])
            return low, high
        if operator == "Add":
            return x[0][0] + x[1][0], x[0][1] + x[1][1]
        if operator == "Mul":
            products = [a * b for a in x[0] for b in x[1]]
            is_known = not any(map(math.isnan, products))
            return (min(products), max(products)) if is_known else _ANYTHING
        if operator == "ReduceSum":
            before = self.scope.values[node.inputs[0]].num_elements
            count = before / max(value.num_elements, 1)
            return min(x[0][0] * count, x[0][0]), max(x[0][1] * count, x[0][1])
        return _ANYTHING


_KEEPING = frozenset(
    {"Cast", "Expand", "Gather", "GatherElements", "GatherND", "ReduceMax", "ReduceMin", "Reshape"}
    | {"Slice", "Split", "Squeeze", "Tile", "TopK", "Transpose", "Unsqueeze"}
)
"""Operators whose (first) output holds numbers of the first input only."""


_COMBINED: dict[str, tuple[Callable[..., float], Callable[..., float]]] = {
    "Concat": (min, max),
    "Max": (max, max),
    "Min": (min, min),
    "Where": (min, max),
}
"""Operators -> how the lower and the upper bounds of their inputs become those of the output."""
_ROUNDED: dict[str, Callable[[float], int]] = {"Ceil": math.ceil, "Floor": math.floor}


def _known_from(scope: Scope, condition: str) -> dict[str, Bounds]:
    """Return the bounds of values where a condition holds, each compared with a constant."""
    known: dict[str, Bounds] = {}
    for part in _conjuncts(scope, condition):
        less = _less(scope, part)
        if less is None:
            continue
        low, high = scope.number(less[0]), scope.number(less[1])
        if high is not None:
            known[less[0]] = (known.get(less[0], _ANYTHING)[0], high)
        elif low is not None:
            known[less[1]] = (low, known.get(less[1], _ANYTHING)[1])
    return known
