"""Measures how far the results of two exports of one model agree, on pictures without labels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from edgeseg_bench.evaluation import Record, compare_results, comparisons, records_of
from edgeseg_bench.metrics.agreement import Agreement
from edgeseg_export.sessions import Graphs, graphs_predictor
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.errors import EdgesegError
from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.predictor import Predictor

_log = logging.getLogger(__name__)

MIN_AGREEMENT_AP = 0.5
"""Below it a graph of lower precision is broken, not just less exact."""


class ParityError(EdgesegError):
    """The exported graph does not compute what the PyTorch model computes."""

    exit_code = 1


def measure_agreement(
    reference: Graphs,
    candidate: Graphs,
    manifest: Manifest,
    pictures: Sequence[Image],
    *,
    on_picture: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Return how far two models agree, and what else tells their detections apart, as JSON.

    Args:
        reference: its confident detections, or all its points, take the place of labels.
        candidate: the graphs to judge.
        manifest: of both.
        pictures: (H, W, 3) uint8 BGR; a video model takes them as one clip.
        on_picture: called as on_picture(done, total).
    """
    total = len(pictures)
    results = []
    for half, graphs in enumerate((reference, candidate)):

        def on_one(done: int, before: int = half * total) -> None:
            on_picture((before + done + 1) // 2, total)

        results.append(records_on(graphs_predictor(graphs, manifest), pictures, on_picture=on_one))
    agreement = agreement_of(results[0], results[1], manifest, pictures)
    return {
        "num_pictures": len(pictures),
        "ap": {kind: _rounded(value) for kind, value in agreement.ap.items()},
        "nme": _rounded(agreement.nme),
        "num_detections": agreement.num_reference,
        "num_matched": agreement.num_matched,
        "num_label_flips": agreement.num_label_flips,
    }


def check_agreement(measured: Mapping[str, Any], precision: str) -> None:
    """Do nothing if a graph of lower precision still finds what the float32 graph finds.

    Args:
        measured: from :func:`measure_agreement`; if there was nothing to compare, that is logged.
        precision: of the graph, for the message.

    Raises:
        ParityError: the agreement of a kind is below `MIN_AGREEMENT_AP`.
    """
    known = {kind: value for kind, value in measured["ap"].items() if value is not None}
    if not measured["num_detections"] or not known:
        _log.warning(
            "the float32 graph finds nothing on the %d pictures, so whether the %s graph agrees is not "
            "known: check on pictures of what the model looks for",
            measured["num_pictures"],
            precision,
        )
        return
    kind, ap = min(known.items(), key=lambda item: item[1])
    if ap < MIN_AGREEMENT_AP:
        raise ParityError(
            f"the {precision} graph finds other things than the float32 graph: agreement of {kind} "
            f"{ap:.3f} found, at least {MIN_AGREEMENT_AP} expected, on {measured['num_pictures']} "
            "pictures. Nothing was written; calibrate on pictures like those you check on, let "
            "--precision auto choose, or allow it with --allow-mismatch"
        )


def agreement_of(
    reference: Sequence[Record],
    candidate: Sequence[Record],
    manifest: Manifest,
    pictures: Sequence[Image],
) -> Agreement:
    """Return how far results agree; pictures have the numbers 1, 2, ... as their ids."""
    return compare_results(
        comparisons(manifest),
        reference,
        candidate,
        images=[
            {"id": number, "height": picture.shape[0], "width": picture.shape[1]}
            for number, picture in enumerate(pictures, 1)
        ],
    )


def records_on(
    predictor: Predictor[Any],
    pictures: Iterable[Image],
    *,
    on_picture: Callable[[int], None] = lambda done: None,
) -> list[Record]:
    """Return what a model finds in pictures, with the image ids 1, 2, ...; see `records_of`.

    Args:
        predictor: of the model.
        pictures: (H, W, 3) uint8 BGR; a video model takes them as one clip.
        on_picture: called with the number of pictures done.
    """
    records: list[Record] = []
    with predictor.session() as session:
        for number, picture in enumerate(pictures, 1):
            records += records_of(session(picture), picture, number)
            on_picture(number)
    return records


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
