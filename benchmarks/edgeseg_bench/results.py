"""The measurements of one benchmark run, as frozen data that JSON can hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from edgeseg_bench.interference import Finding, Interference
from edgeseg_bench.latency import Latency, Ratio, WarmUp
from edgeseg_bench.metrics.agreement import Agreement, ImageAgreement
from edgeseg_bench.metrics.coco import Scores
from edgeseg_runtime.environment import Environment

SCHEMA = "1.1"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StageLatency:
    """Where the time of a query goes; sample i of every part belongs to the same query.

    Attributes:
        end_to_end: picture in memory -> result, masks pasted into the picture and whatever else is lazy.
        pre: resizing into the input tensors.
        model: tensors ready -> outputs ready in host memory, device synchronised.
        post: outputs -> result in source pixels, masks pasted.
    """

    end_to_end: Latency
    pre: Latency
    model: Latency
    post: Latency


@dataclass(frozen=True, kw_only=True)
class GraphLatency:
    """How long the runs of one graph of a model took that were alike.

    Attributes:
        graph: its name; None for all graphs of a frame together.
        frame: "first" of a key frame, "then" of the others; None where all frames run the same graphs.
        rows: fewest and most instances that these runs were for; None where the graph does not depend on them.
        num_runs: of this kind.
        p50_ms: median.
    """

    graph: str | None
    frame: str | None
    rows: tuple[int, int] | None
    num_runs: int
    p50_ms: float


@dataclass(frozen=True, kw_only=True)
class BackendReport:
    """What one predictor achieved.

    Attributes:
        name: what the caller called it, such as "onnxruntime".
        model: the manifest's name.
        precision: that of the graphs, and that of the engine where it computes in another one.
        manifest_sha256: of the manifest, which holds the sha256 of every artifact.
        accuracy: AP and AR against the labels, by IoU type.
        agreement: with the reference; None for the reference itself, and where nothing can be compared.
        num_detections: on all pictures.
        num_shrunk: pictures that fit into no shape of the bundle and lost scale.
        latency: stage by stage.
        warm_up: what happened before.
        ratio_end_to_end: time relative to the reference, query by query; None for the reference itself.
        ratio_model: the same for the model alone.
        peak_memory_bytes: resident memory of a process that runs only this; None = not measured.
        engine: what ran where, see `CheckedBackend.describe`: version, provider, nodes by provider.
        graphs: the model's time by graph, kind of frame and number of instances; empty where all runs are alike.
        disturbed_rounds: share of the rounds whose time is far from what is usual for their picture and frame, see
            `interference.disturbed_share`; None = not known.
        disturbed_ratios: the same of the ratio to the reference.
    """

    name: str
    model: str
    precision: str
    manifest_sha256: str
    accuracy: Mapping[str, Scores]
    agreement: Agreement | None
    num_detections: int
    latency: StageLatency
    warm_up: WarmUp
    ratio_end_to_end: Ratio | None
    ratio_model: Ratio | None
    num_shrunk: int = 0
    peak_memory_bytes: int | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    graphs: tuple[GraphLatency, ...] = ()
    disturbed_rounds: float | None = None
    disturbed_ratios: float | None = None


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """One benchmark run.

    Attributes:
        dataset: name and split.
        num_pictures: that accuracy and agreement were measured on.
        num_latency_pictures: that were measured in turn for latency, the first of the data set.
        reference: name of the backend that agreement and ratios refer to.
        is_quick: measured for a few seconds only: see the number of samples.
        backends: in the order they were given.
        environment: where it ran.
        settings: what the caller chose, such as threads.
        interference: what else happened while latencies were measured; None in reports of schema 1.0.
        findings: what of it, or of the rounds, spoiled them.
        schema: version of this form.
    """

    dataset: str
    num_pictures: int
    num_latency_pictures: int
    reference: str
    is_quick: bool
    backends: tuple[BackendReport, ...]
    environment: Environment
    settings: Mapping[str, Any] = field(default_factory=dict)
    interference: Interference | None = None
    findings: tuple[Finding, ...] = ()
    schema: str = SCHEMA

    def to_json(self) -> str:
        """Return the report with every raw sample, of which there are too many for a line each."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> BenchReport:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is not such a report, or of another major schema.
        """
        content = json.loads(text)
        schema = content.get("schema") if isinstance(content, dict) else None
        if not isinstance(schema, str) or schema.split(".")[0] != SCHEMA.split(".")[0]:
            raise ValueError(
                f"This is a report of schema {schema!r}, expected {SCHEMA!r}: "
                "read it with the edgeseg that wrote it, or measure again."
            )
        content["backends"] = tuple(_backend_report(entry) for entry in content["backends"])
        content["environment"] = _environment(content["environment"])
        content["interference"] = _optional(_interference, content.get("interference"))
        content["findings"] = tuple(Finding(**entry) for entry in content.get("findings", ()))
        return cls(**content)


def _backend_report(entry: dict[str, Any]) -> BackendReport:
    num_pairs = len(entry["latency"]["model"]["samples_ns"])

    def ratio(values: dict[str, Any]) -> Ratio:
        return Ratio(**{"num_pairs": num_pairs} | values)  # schema 1.0 leaves it to the samples

    return BackendReport(
        **entry
        | {
            "agreement": _optional(_agreement, entry["agreement"]),
            "latency": StageLatency(
                **{
                    stage: Latency(samples_ns=tuple(values["samples_ns"]))
                    for stage, values in entry["latency"].items()
                }
            ),
            "warm_up": WarmUp(**entry["warm_up"]),
            "ratio_end_to_end": _optional(ratio, entry["ratio_end_to_end"]),
            "ratio_model": _optional(ratio, entry["ratio_model"]),
            "graphs": tuple(_graph_latency(values) for values in entry.get("graphs", ())),
        }
    )


def _optional(read: Callable[[dict[str, Any]], T], entry: dict[str, Any] | None) -> T | None:
    return None if entry is None else read(entry)


def _agreement(entry: dict[str, Any]) -> Agreement:
    worst = tuple(ImageAgreement(**picture) for picture in entry["worst"])
    return Agreement(**entry | {"worst": worst})


def _graph_latency(entry: dict[str, Any]) -> GraphLatency:
    return GraphLatency(**entry | {"rows": _optional(tuple, entry["rows"])})


def _interference(entry: dict[str, Any]) -> Interference:
    return Interference(**entry)


def _environment(entry: dict[str, Any]) -> Environment:
    load = entry["load_average"]
    return Environment(
        **entry
        | {
            "command_line": tuple(entry["command_line"]),
            "cpu_flags": tuple(entry["cpu_flags"]),
            "load_average": None if load is None else tuple(load),
            "openvino_devices": _optional(tuple, entry.get("openvino_devices")),
        }
    )
