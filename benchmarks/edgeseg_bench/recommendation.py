"""Which of the backends that a run measured is the fastest one that finds the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeseg_bench.evaluation import METRICS
from edgeseg_bench.results import BackendReport, BenchReport
from edgeseg_runtime.backends import BACKENDS

__all__ = ["MAX_DROP", "Recommendation", "recommend"]

MAX_DROP = 0.01
"""Accuracy that may be lost, 0 to 1."""
_ERROR = "NME"
"""The score that is better when it is lower."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """A backend, and how to ask for it.

    Attributes:
        backend: its name.
        loss: accuracy that it loses against the reference of the run; below 0 where it gains.
        is_agreement: there were no labels, and the loss is what is missing to full agreement.
        max_drop: what it may lose.
        speed: pictures per second over those of the reference.
        threads: that it was measured with; None for the engine's own choice.
    """

    backend: str
    loss: float
    is_agreement: bool
    max_drop: float
    speed: float
    threads: int | None

    def text(self, reference: str) -> str:
        """Return what is recommended, and why, as a sentence."""
        what = "agreement" if self.is_agreement else "accuracy"
        return (
            f"Fastest with at most {self.max_drop:g} less {what} than {reference}: {self.backend}, "
            f"{self.speed:.2f} times as many pictures per second, {max(self.loss, 0.0):.3f} lost."
        )

    def command(self, bundle: str) -> str:
        """Return the command that runs a bundle in this way."""
        threads = "" if self.threads is None else f" --threads {self.threads}"
        return f"edgeseg run {bundle} SOURCE --backend {self.backend}{threads}"

    def code(self, bundle: str) -> str:
        """Return the expression that loads a bundle in this way."""
        threads = "" if self.threads is None else f", threads={self.threads}"
        return f'edgeseg_runtime.load("{bundle}", backend="{self.backend}"{threads})'


def recommend(report: BenchReport) -> Recommendation | None:
    """Return the fastest backend of the runtime that loses no more than a run allows.

    That is the setting `max_drop` of the run, or `MAX_DROP`. The loss is the largest one over the metrics of the run
    (their first columns); without labels it is what is missing to full agreement with the reference.

    Returns:
        None if none was measured that a device can run, or all of them lose more.
    """
    max_drop = float(report.settings.get("max_drop", MAX_DROP))
    reference = next(b for b in report.backends if b.name == report.reference)
    fitting = []
    for backend in report.backends:
        loss, is_agreement = _loss(backend, reference)
        if backend.name.partition(":")[0] in BACKENDS and loss <= max_drop:
            fitting.append((backend, loss, is_agreement))
    if not fitting:
        return None
    backend, loss, is_agreement = min(fitting, key=lambda item: item[0].latency.end_to_end.p50_ms)
    return Recommendation(
        backend=backend.name,
        loss=loss,
        is_agreement=is_agreement,
        max_drop=max_drop,
        speed=reference.latency.end_to_end.p50_ms / backend.latency.end_to_end.p50_ms,
        threads=backend.engine.get("threads"),
    )


def _loss(backend: BackendReport, reference: BackendReport) -> tuple[float, bool]:
    """Return what a backend loses, and whether that is agreement."""
    if backend is reference:
        return 0.0, False
    losses = [
        (expected - found) * (-1 if score == _ERROR else 1)
        for metric, score in _first_columns()
        if (expected := _score(reference.accuracy, metric, score)) is not None
        and (found := _score(backend.accuracy, metric, score)) is not None
    ]
    if losses:
        return max(losses), False
    shares = [] if backend.agreement is None else list(backend.agreement.ap.values())
    return 1 - min((share for share in shares if share is not None), default=0.0), True


def _first_columns() -> list[tuple[str, str]]:
    return [(metric.name, next(iter(metric.columns))) for metric in METRICS if metric.columns]


def _score(accuracy: Mapping[str, Mapping[str, Any]], metric: str, score: str) -> float | None:
    value = accuracy.get(metric, {}).get(score)
    return None if value is None else float(value)
