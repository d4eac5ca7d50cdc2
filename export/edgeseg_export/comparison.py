"""Compares two exports of one model: opens them and the pictures, shows the report, writes it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.evaluation import comparisons, dataset_kind, pictures_seen
from edgeseg_bench.pictures import is_data_set
from edgeseg_export.compare import CompareReport, Picture, Side
from edgeseg_export.sessions import GraphBackend
from edgeseg_runtime import Manifest, Predictor, Source
from edgeseg_runtime.bundle.graph_files import read_graph
from edgeseg_runtime.bundle.graphs import MAIN
from edgeseg_runtime.commands.tables import (
    Table,
    table_of_rows,
    text_from_agreement,
    text_from_value,
)
from edgeseg_runtime.errors import CorruptArtifact
from edgeseg_runtime.outputs import OutputFolder
from edgeseg_runtime.progress import Progress, silent
from edgeseg_runtime.tasks import create_task

TORCH = "torch"
NUM_SHOWN = 12
"""Nodes of the table on the terminal; files have them all."""
NUM_PAIRS = 4
REPORT_FILES = ("report.json", "report.md")
GAP = 8  # pixels between the two pictures of a pair

Pictures = Callable[[], Iterator[Picture]]


def open_sides(
    reference: str,
    candidate: Path,
    *,
    model: str | None = None,
    weights: str | None,
    weights_key: str | None = None,
) -> tuple[Side, Side]:
    """Return what is to be compared.

    Args:
        reference: folder of a bundle, or "torch" for the model that the candidate was made from.
        candidate: folder of a bundle.
        model: what "torch" is rebuilt from, MODULE:NAME, if it is of a module outside edgeseg.
        weights: the exported checkpoint, if it has moved since.
        weights_key: the part of it, if it is not the one that was exported.

    Raises:
        ValueError: the PyTorch model cannot be rebuilt.
        EdgesegError: a damaged bundle, or another checkpoint than the exported one.
    """
    side = _bundle_side(candidate)
    if reference == TORCH:
        return _torch_side(side.manifest, model, weights, weights_key), side
    return _bundle_side(Path(reference)), side


def open_pictures(
    data: str,
    manifest: Manifest,
    limit: int,
    *,
    progress: Progress = silent,
) -> tuple[Pictures, int, str]:
    """Return the pictures of a folder or a data set, how many at most, and what to call them.

    Of a data set they are what the model looks at: the whole picture, or what is about a labelled box.
    """
    if not is_data_set(data):
        count = min(limit, Source(data).num_frames or limit)

        def frames() -> Iterator[Picture]:
            for frame in itertools.islice(Source(data), limit):
                yield Picture(image_id=frame.index, name=frame.name, image=frame.image)

        return frames, count, data
    dataset = open_dataset(
        data,
        kind=dataset_kind(manifest),
        limit=limit,
        on_picture=functools.partial(progress, "check the pictures"),
    )

    def seen() -> Iterator[Picture]:
        for number, (name, image) in enumerate(pictures_seen(manifest, dataset, limit=limit), 1):
            yield Picture(image_id=number, name=name, image=image)

    return seen, limit if manifest.looks_at_boxes else len(dataset), dataset.name


def tables(report: CompareReport, *, is_full: bool = False) -> list[Table]:
    """Return what people want to see of a report on the terminal."""
    taps = _tap_rows(report)
    if not is_full and len(taps) > NUM_SHOWN:
        noisy = sorted(report.taps, key=lambda tap: tap.own_snr_db)[:NUM_SHOWN]
        names = {tap.name for tap in noisy} | {report.first_bad_tap}
        taps = [row for row in taps if row["node"] in names]
    title = f"Nodes with most noise of their own ({len(taps)} of {len(report.taps)}; -v: all)"
    found = [table_of_rows(f"From {report.reference} on", _step_rows(report))]
    if taps:
        found.append(table_of_rows("Nodes" if is_full else title, taps))
    found.append(table_of_rows("Worst pictures", _picture_rows(report)[:NUM_PAIRS]))
    return found


def verdict(report: CompareReport) -> str:
    """Return the result in one sentence."""
    tap = next((tap for tap in report.taps if tap.name == report.first_bad_tap), None)
    if tap is not None:
        where = f"the first bad node is {tap.name} (own SNR {tap.own_snr_db:.1f} dB)"
    elif report.taps:
        where = "no single node spoils its result"
    else:
        where = "the nodes of different sizes are not compared"
    return (
        f"agreement with {report.reference} on {report.num_pictures} pictures of "
        f"{report.data}: {text_from_agreement(report.agreement.ap)}; {where}"
    )


def markdown(report: CompareReport) -> str:
    """Return the whole report as Markdown."""
    metrics = [{"metric": name, "value": value} for name, value in report.metrics().items()]
    lines = [
        f"# {report.model}: {report.candidate} against {report.reference}",
        "",
        verdict(report),
    ]
    for title, rows in (
        ("Steps", _step_rows(report)),
        ("Nodes", _tap_rows(report)),
        ("Worst pictures", _picture_rows(report)),
        ("Metrics", metrics),
    ):
        if rows:
            lines += ["", f"## {title}", "", *_markdown_table(rows)]
    return "\n".join(lines) + "\n"


def report_folder(folder: Path, *, overwrite: bool) -> OutputFolder:
    """Return the folder for what `write_report` writes, which is not touched before.

    Raises:
        FileExistsError: a report is there and `overwrite` is not set.
    """
    return OutputFolder(folder, REPORT_FILES, overwrite=overwrite)


def write_report(
    report: CompareReport,
    outputs: OutputFolder,
    sides: tuple[Side, Side],
    pictures: Pictures,
    *,
    score: float,
) -> list[Path]:
    """Write report.json, report.md and the worst pictures with both results side by side.

    Args:
        report: what to write.
        outputs: from `report_folder`.
        sides: reference and candidate.
        pictures: that were compared on.
        score: detections from this score on are drawn; where all count, all are.

    Raises:
        FileExistsError: a file that is not to be replaced is there.
        OSError: a file cannot be written.
    """
    with outputs:
        contents = (report.to_json(), markdown(report))
        files = [
            outputs.write(name, text.encode())
            for name, text in zip(REPORT_FILES, contents, strict=True)
        ]
        files += _write_worst(report, outputs, sides, pictures, score)
    return sorted(files, key=lambda file: (file.suffix == ".jpg", file.name))


def _write_worst(
    report: CompareReport,
    outputs: OutputFolder,
    sides: tuple[Side, Side],
    pictures: Pictures,
    score: float,
) -> Iterator[Path]:
    """Write the worst pictures with both results side by side, and yield their files."""
    ranks = {picture.image_id: rank for rank, picture in enumerate(report.agreement.worst, 1)}
    predictors = [_predictor(side) for side in sides]
    for picture in pictures():
        rank = ranks.get(picture.image_id)
        if rank is None or rank > NUM_PAIRS:
            continue
        drawn = [_drawn(predictor, picture, score) for predictor in predictors]
        gap = np.full((picture.image.shape[0], GAP, 3), 255, np.uint8)
        pair = np.concatenate([drawn[0], gap, drawn[1]], axis=1)
        content = cv2.imencode(".jpg", pair)[1].tobytes()
        yield outputs.write(f"worst_{rank}_{Path(picture.name).stem}.jpg", content)


def _bundle_side(folder: Path) -> Side:
    manifest = Manifest.load(folder).views[0]
    graphs = {name: _parsed(folder, manifest, name) for name in manifest.graphs}
    return Side(name=str(folder), manifest=manifest, graphs=graphs)


def _parsed(folder: Path, manifest: Manifest, name: str) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    from edgeseg_export.onnx_model import model_from_proto

    try:
        return model_from_proto(onnx.load_model_from_string(read_graph(folder, manifest, name)))
    except DecodeError as error:
        file = manifest.artifact(manifest.graphs[name].artifact).file
        raise CorruptArtifact(file, "an ONNX model", f"something else ({error})") from error


def _torch_side(
    exported: Manifest, name: str | None, weights: str | None, weights_key: str | None
) -> Side:
    from edgeseg.models import model_manifest
    from edgeseg.models.provenance import rebuild_model
    from edgeseg.models.torch_backend import TorchBackend
    from edgeseg_export.graph import complete_graph, in_one_graph, trace_graphs, without_stages

    model = rebuild_model(exported, name=name, weights=weights, weights_key=weights_key)
    own = model_manifest(model)
    if set(exported.graphs) == {MAIN} != set(own.graphs):
        own = in_one_graph(own)
    graphs = without_stages(trace_graphs(model, own), own)
    return Side(
        name=TORCH,
        manifest=own,
        graphs={name: complete_graph(graph) for name, graph in graphs.items()},
        backend=TorchBackend(model, own),
    )


def _predictor(side: Side) -> Predictor[Any]:
    backend = side.backend or GraphBackend(side.graphs, side.manifest)
    return Predictor(side.manifest, create_task(side.manifest), backend)


def _drawn(predictor: Predictor[Any], picture: Picture, score: float) -> np.ndarray[Any, Any]:
    found = predictor(picture.image)
    counts_all = any(how.counts_all for how in comparisons(predictor.manifest))
    kept = found if counts_all else found.filter(score=score)
    return np.asarray(kept.draw(picture.image))


def _step_rows(report: CompareReport) -> list[dict[str, Any]]:
    return [
        {
            "step": step.name,
            **{
                f"{kind} with the step before": "same" if step.is_same else _rounded(value)
                for kind, value in step.ap_to_previous.items()
            },
            **{
                f"{kind} with {report.reference}": _rounded(value)
                for kind, value in step.ap_to_reference.items()
            },
        }
        for step in report.steps
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _tap_rows(report: CompareReport) -> list[dict[str, Any]]:
    return [
        {
            "node": tap.name,
            "in": tap.precision,
            "own SNR dB": round(tap.own_snr_db, 1),
            "SNR dB": round(tap.snr_db, 1),
            "cosine": round(tap.cosine, 5),
            "largest error": tap.max_error,
            "of": tap.largest,
            "levels": tap.num_levels,
            "": "bad" if tap.is_bad else "",
        }
        for tap in report.taps
    ]


def _picture_rows(report: CompareReport) -> list[dict[str, Any]]:
    return [
        {
            "picture": report.names[picture.image_id],
            "quality": round(picture.quality, 3),
            "reference found": picture.num_reference,
            "candidate found": picture.num_candidate,
        }
        for picture in report.agreement.worst
    ]


def _markdown_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    names = list(rows[0])
    cells = [[text_from_value(name, row[name]) for name in names] for row in rows]
    rule = ["---"] * len(names)
    return ["| " + " | ".join(line) + " |" for line in (names, rule, *cells)]
