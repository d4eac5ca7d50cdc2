"""Reads conditions such as "agreement_ap<0.98" and tells which of them hold."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_FORM = re.compile(r"([A-Za-z_][\w.]*)\s*(<=|>=|<|>)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)")


@dataclass(frozen=True)
class Condition:
    """A metric, a comparison and a number."""

    metric: str
    comparison: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric}{self.comparison}{self.bound:g}"


def conditions_from_text(texts: Sequence[str], metrics: Collection[str]) -> list[Condition]:
    """Return the conditions of texts, each of which holds one or several separated by commas.

    Args:
        texts: such as "agreement_ap<0.98, num_bad_taps>0".
        metrics: that exist.

    Raises:
        ValueError: another form, or an unknown metric.
    """
    parts = [part.strip() for text in texts for part in text.split(",")]
    return [_condition(part, metrics) for part in parts]


def conditions_met(conditions: Sequence[Condition], values: Mapping[str, float]) -> list[Condition]:
    """Return the conditions that hold.

    Raises:
        ValueError: a condition asks for a metric that has no value here.
    """
    for condition in conditions:
        if condition.metric not in values:
            raise ValueError(
                f"{condition} found, but there is no {condition.metric} here: this model and "
                f"these pictures have {', '.join(values)}"
            )
    return [c for c in conditions if COMPARISONS[c.comparison](values[c.metric], c.bound)]


def _condition(text: str, metrics: Collection[str]) -> Condition:
    match = _FORM.fullmatch(text)
    bound = _number(match[3]) if match else None
    if match is None or bound is None:
        raise ValueError(
            f"condition {text!r} found, expected METRIC, one of {' '.join(COMPARISONS)}, and a "
            "number, such as agreement_ap<0.98"
        )
    if match[1] not in metrics:
        close = difflib.get_close_matches(match[1], metrics, n=3) or sorted(metrics)
        raise ValueError(f"metric {match[1]!r} found, expected one of {', '.join(close)}")
    return Condition(match[1], match[2], bound)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
