"""Shows a benchmark run: a table for the terminal, Markdown, and files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from edgeseg_bench.evaluation import COMPARISONS, METRICS
from edgeseg_bench.interference import DISTURBED_SHARE, Interference
from edgeseg_bench.latency import MIN_PAIRS, MIN_QUERIES, Ratio
from edgeseg_bench.recommendation import recommend
from edgeseg_bench.results import BackendReport, BenchReport, GraphLatency
from edgeseg_runtime.outputs import OutputFolder

UNKNOWN = "-"
AGREEMENT_NAMES = {how.kind: how.noun for how in COMPARISONS}
BUSY_SHARE = 0.1  # of the cores at work before a run is worth a word


def render_table(report: BenchReport) -> Table:
    """Return the table of a run for a rich console: one column per backend.

    So that it fits a terminal of 80 characters; Markdown has one row per backend.
    """
    table = Table(  # Text: brackets are not markup
        title=Text(_title(report)),
        caption=Text(_caption(report)),
        title_justify="left",
        caption_justify="left",
    )
    headings, rows = _headings(report), [_cells(report, backend) for backend in report.backends]
    table.add_column(headings[0], no_wrap=True)
    for name, *_ in rows:
        table.add_column(Text(name), justify="right")
    for heading, *cells in zip(headings[1:], *(row[1:] for row in rows), strict=True):
        table.add_row(heading, *(Text(cell) for cell in cells))
    return table


def advice_lines(report: BenchReport, bundle: str) -> list[str]:
    """Return the recommended backend of a run, as a command and as code."""
    advice = recommend(report)
    if advice is None:
        return ["No backend that a device can run loses so little accuracy."]
    return [
        advice.text(report.reference),
        f"  {advice.command(bundle)}",
        f"  {advice.code(bundle)}",
    ]


def markdown(report: BenchReport) -> str:
    """Return the same table as Markdown, followed by where the time goes and where it ran."""
    headings = _headings(report)
    lines = [f"# {_title(report)}", "", *_markdown_table(headings, _rows(report))]
    lines += ["", _caption(report), ""]
    advice = recommend(report)
    if advice is not None:
        lines += [advice.text(report.reference), ""]
    lines += ["## Where the time goes", ""]
    lines += _markdown_table(
        [
            "backend",
            "pre p50 ms",
            "model p50 ms",
            "post p50 ms",
            "min..max ms",
        ],
        [_stage_cells(backend) for backend in report.backends],
    )
    graphs = [_graph_cells(backend, part) for backend in report.backends for part in backend.graphs]
    if graphs:
        lines += ["", "## By graph", ""]
        headings = ["backend", "graph", "frame", "instances", "runs", "p50 ms"]
        lines += _markdown_table(headings, graphs)
    agreements = [_agreement_cells(b) for b in report.backends if b.agreement is not None]
    if agreements:
        lines += ["", f"## Agreement with {report.reference}", ""]
        lines += _markdown_table(
            [
                "backend",
                "matched",
                "label flips",
                "count delta",
                _closeness_heading(report),
                "score MAE",
                "worst images",
            ],
            agreements,
        )
    lines += ["", "## Environment", "", *_environment_lines(report), ""]
    return "\n".join(lines)


def report_folder(
    folder: str | Path, *, name: str = "report", overwrite: bool = False
) -> OutputFolder:
    """Return the folder for what `write_report` writes, which is not touched before.

    Raises:
        FileExistsError: a report of that name is there and `overwrite` is not set.
    """
    return OutputFolder(folder, (f"{name}.json", f"{name}.md"), overwrite=overwrite)


def write_report(
    report: BenchReport, folder: str | Path, *, name: str = "report", overwrite: bool = False
) -> tuple[Path, Path]:
    """Write FOLDER/NAME.json, with every sample, and FOLDER/NAME.md.

    Each file appears whole or not at all.

    Returns:
        The two paths.

    Raises:
        FileExistsError: a report of that name is there and `overwrite` is not set.
        OSError: a file cannot be written.
    """
    with report_folder(folder, name=name, overwrite=overwrite) as outputs:
        return (
            outputs.write(f"{name}.json", report.to_json().encode("utf-8")),
            outputs.write(f"{name}.md", markdown(report).encode("utf-8")),
        )


def _title(report: BenchReport) -> str:
    models = " / ".join(dict.fromkeys(backend.model for backend in report.backends))
    return f"{models} on {report.dataset}, {report.num_pictures} pictures"


def _caption(report: BenchReport) -> str:
    environment = report.environment
    kind = "Quick run. " if report.is_quick else ""
    return (
        f"{kind}{environment.device or environment.cpu}, {environment.num_usable_cores} cores usable. "
        f"Times in ms, one query at a time; model = tensors to outputs, end-to-end = picture to result with masks. "
        f"vs {report.reference} = median of paired time ratios [bootstrap 95 % interval], below 1 is faster, "
        f"'=' where the interval contains 1; an interval needs {MIN_PAIRS} samples, p90 {MIN_QUERIES}. "
        "Peak memory = resident set of a fresh process, without GPU memory."
        f"{_settled_note(report)}{_trust_note(report)}{_shrunk_note(report)}"
    )


def _settled_note(report: BenchReport) -> str:
    if all(backend.warm_up.is_stable for backend in report.backends):
        return ""
    return " Not settled = times still changed when warming up ended: measure longer, on an idle machine."


def _trust_note(report: BenchReport) -> str:
    """Return what spoiled the measurement, and what follows for the reader of the table."""
    if report.interference is None:
        return _load_note(report)
    if not report.findings:
        is_known = report.interference.others_share is not None
        return "" if is_known else " This system does not tell whether others took cores meanwhile."
    seen = "; ".join(finding.text for finding in report.findings)
    has_ratios = len(report.backends) > 1
    if has_ratios and all(finding.spoils == "times" for finding in report.findings):
        return (
            f" While measuring, {seen}. Trust the ratios, not the times: taking turns, all backends "
            "bore a slow drift alike."
        )
    what = "neither times nor ratios: bursts and taken cores cost one backend more than another"
    return (
        f" While measuring, {seen}. Trust {what if has_ratios else 'no time'}. Measure again on an "
        "idle machine, or with fewer --threads than there are free cores."
    )


def _load_note(report: BenchReport) -> str:
    """Return what the load before a run says where none was recorded during it."""
    environment = report.environment
    load = environment.load_average[0] if environment.load_average else 0.0
    if load <= BUSY_SHARE * environment.num_cores:
        return ""
    return (
        f" The machine was busy before the run (load average {load:.1f} on {environment.num_cores} cores), "
        "and whether it stayed so was not recorded: do not trust the times, nor the ratios if it did."
    )


def _shrunk_note(report: BenchReport) -> str:
    num_shrunk = max(backend.num_shrunk for backend in report.backends)
    if not num_shrunk:
        return ""
    return (
        f" {num_shrunk} pictures fit into no shape of the bundle and were shrunk further than the original "
        "shrinks them."
    )


def _headings(report: BenchReport) -> list[str]:
    return [
        "backend",
        "precision",
        *(["threads"] if _has_threads(report) else []),
        "samples",
        *(heading for _, _, heading in _accuracy_columns(report)),
        *(f"{AGREEMENT_NAMES[kind]} agreement" for kind in _agreement_kinds(report)),
        "model p50",
        "model p90",
        "end-to-end p50",
        "end-to-end p90",
        "img/s",
        f"model vs {report.reference}",
        f"end-to-end vs {report.reference}",
        "peak MB",
    ]


def _rows(report: BenchReport) -> list[list[str]]:
    return [_cells(report, backend) for backend in report.backends]


def _cells(report: BenchReport, backend: BackendReport) -> list[str]:
    agreement = backend.agreement.ap if backend.agreement else {}
    model, whole = backend.latency.model, backend.latency.end_to_end
    return [
        backend.name,
        backend.precision,
        *([str(_threads(backend) or UNKNOWN)] if _has_threads(report) else []),
        _samples(backend),
        *(
            _number(backend.accuracy.get(metric, {}).get(score), 3)
            for metric, score, _ in _accuracy_columns(report)
        ),
        *(_number(agreement.get(kind), 3) for kind in _agreement_kinds(report)),
        _number(model.p50_ms, 2),
        _number(model.p90_ms, 2),
        _number(whole.p50_ms, 2),
        _number(whole.p90_ms, 2),
        _number(whole.per_second, 1),
        _ratio(backend.ratio_model),
        _ratio(backend.ratio_end_to_end),
        _number(_megabytes(backend.peak_memory_bytes), 0),
    ]


def _stage_cells(backend: BackendReport) -> list[str]:
    latency = backend.latency
    whole = latency.end_to_end
    return [
        backend.name,
        _number(latency.pre.p50_ms, 2),
        _number(latency.model.p50_ms, 2),
        _number(latency.post.p50_ms, 2),
        f"{whole.min_ms:.2f}..{whole.max_ms:.2f}",
    ]


def _graph_cells(backend: BackendReport, part: GraphLatency) -> list[str]:
    fewest, most = part.rows or (None, None)
    instances = (
        UNKNOWN if fewest is None else f"{fewest}" if fewest == most else f"{fewest}..{most}"
    )
    return [
        backend.name,
        part.graph or "all",
        part.frame or "every",
        instances,
        str(part.num_runs),
        _number(part.p50_ms, 2),
    ]


def _samples(backend: BackendReport) -> str:
    """Return how many there are, and what is wrong with them."""
    share = backend.disturbed_rounds
    faults = [
        *([] if backend.warm_up.is_stable else ["not settled"]),
        *([f"{share:.0%} disturbed"] if share is not None and share > DISTURBED_SHARE else []),
    ]
    return ", ".join([str(len(backend.latency.model.samples_ns)), *faults])


def _threads(backend: BackendReport) -> int | None:
    threads: int | None = backend.engine.get("threads")
    return threads


def _has_threads(report: BenchReport) -> bool:
    return any(_threads(backend) for backend in report.backends)


def _agreement_cells(backend: BackendReport) -> list[str]:
    agreement = backend.agreement
    assert agreement is not None
    worst = ", ".join(f"{p.image_id} ({p.quality:.2f})" for p in agreement.worst[:3])
    return [
        backend.name,
        f"{agreement.num_matched} of {agreement.num_reference}",
        str(agreement.num_label_flips),
        f"{agreement.count_delta:+d}",
        _number(agreement.mean_iou if agreement.nme is None else agreement.nme, 4),
        _number(agreement.score_mae, 4),
        worst or UNKNOWN,
    ]


def _closeness_heading(report: BenchReport) -> str:
    """Return how close matched results are: of points their distance over the size of the box."""
    has_points = any(b.agreement and b.agreement.nme is not None for b in report.backends)
    return "NME" if has_points else "mean IoU"


def _environment_lines(report: BenchReport) -> list[str]:
    environment = report.environment
    load = environment.load_average
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    entries = {
        "time": environment.time_utc,
        "command": f"`{' '.join(environment.command_line)}`",
        "CPU": f"{environment.cpu} ({', '.join(environment.cpu_flags) or 'no known flags'})",
        "cores": f"{environment.num_usable_cores} usable of {environment.num_cores}",
        "governor": environment.governor or "unknown",
        "load average before": " ".join(f"{value:.2f}" for value in load) if load else "unknown",
        "system": f"{environment.system}, Python {environment.python}",
        "packages": versions,
        "git revision": environment.git_revision or "unknown",
        "settings": ", ".join(f"{k}={v}" for k, v in report.settings.items()) or "defaults",
        "thread variables": ", ".join(f"{k}={v}" for k, v in environment.threads.items()) or "none",
        "pictures for latency": str(report.num_latency_pictures),
        "while measuring": _interference_text(report.interference),
    }
    if environment.openvino_devices is not None:
        entries["OpenVINO's devices"] = ", ".join(environment.openvino_devices) or "none"
    entries |= {f"{b.name} ran on": _engine(b.engine) for b in report.backends if b.engine}
    entries |= {f"manifest of {b.name}": f"sha256 {b.manifest_sha256}" for b in report.backends}
    return [f"- {name}: {value}" for name, value in entries.items()]


def _interference_text(interference: Interference | None) -> str:
    """Return all that was seen, harmful or not."""
    if interference is None:
        return "not recorded"
    seen = interference
    shares = {
        "of the usable cores' time for others": seen.others_share,
        "stolen by the hypervisor": seen.steal_share,
        "of the CPU quota's periods throttled": seen.throttled_share,
        "of the highest clock allowed": seen.clock_limit_after,
    }
    facts = [f"{seen.own_cores:.1f} cores at work in {seen.seconds:.1f} s"]
    facts += [f"{share:.1%} {what}" for what, share in shares.items() if share is not None]
    if seen.load_average is not None:
        facts.append(f"load average {seen.load_average:.2f} at the end")
    if seen.num_thermal_events is not None:
        facts.append(f"{seen.num_thermal_events} times too hot")
    return ", ".join(facts)


def _engine(engine: Mapping[str, Any]) -> str:
    """Return what ran where as one line, such as "onnxruntime, version 1.32.0, ..."."""
    facts = [f"{name.replace('_', ' ')} {value}" for name, value in engine.items() if _says(value)]
    nodes = engine.get("num_nodes") or {}
    where = [f"{count} nodes on {place}" for place, count in nodes.items()]
    return ", ".join([*facts, *where])


def _says(value: object) -> bool:
    return value is not None and not isinstance(value, Mapping)


def _markdown_table(headings: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (headings, rule, *rows)]


def _accuracy_columns(report: BenchReport) -> list[tuple[str, str, str]]:
    """Return metric, score and heading of what any backend was measured on."""
    measured = {name for backend in report.backends for name in backend.accuracy}
    return [
        (metric.name, score, heading)
        for metric in METRICS
        if metric.name in measured
        for score, heading in metric.columns.items()
    ]


def _agreement_kinds(report: BenchReport) -> list[str]:
    """Return the kinds of agreement of any backend, in a fixed order."""
    measured = {kind for b in report.backends if b.agreement for kind in b.agreement.ap}
    return [kind for kind in AGREEMENT_NAMES if kind in measured]


def _number(value: float | None, digits: int) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def _megabytes(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else size_bytes / 1e6


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return UNKNOWN
    mark = "= " if ratio.low is not None and ratio.is_equal else ""
    return f"{mark}{ratio.text()}"
