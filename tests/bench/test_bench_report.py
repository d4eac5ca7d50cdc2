"""Reports survive the round trip through JSON and show what was measured, no more."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from edgeseg_bench.interference import Finding, Interference
from edgeseg_bench.latency import Latency, Ratio, WarmUp
from edgeseg_bench.metrics.agreement import Agreement, ImageAgreement
from edgeseg_bench.recommendation import recommend
from edgeseg_bench.report import advice_lines, markdown, render_table, write_report
from edgeseg_bench.results import BackendReport, BenchReport, GraphLatency, StageLatency
from edgeseg_runtime.environment import portable, read_environment

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
STAGES = "## Where the time goes"
RECORDED = sorted([*RESULTS.glob("*_bench.json"), *RESULTS.glob("*_int8.json")])
AGREEMENT = Agreement(
    ap={"bbox": 0.9951, "segm": 0.9823},
    score_threshold=0.3,
    num_reference=40,
    num_matched=39,
    num_label_flips=1,
    count_delta=-1,
    mean_iou=0.9911,
    score_mae=0.0021,
    worst=(ImageAgreement(image_id=7, quality=0.81, num_reference=3, num_candidate=2),),
)


QUIET = Interference(
    seconds=61.25,
    own_cores=1.5,
    others_share=0.012,
    steal_share=0.0,
    load_average=1.75,
    throttled_share=None,
    num_thermal_events=0,
    clock_limit_before=1.0,
    clock_limit_after=1.0,
)


def latency_of(milliseconds, count):
    return Latency(samples_ns=tuple(round((milliseconds + i / 1000) * 1e6) for i in range(count)))


def backend_of(
    name, *, model_ms, count=64, agreement=None, ratio=None, model_ratio=None, accuracy=0.7
):
    return BackendReport(
        name=name,
        model="maskrcnn",
        precision="fp32",
        manifest_sha256="ab" * 32,
        accuracy={"bbox": {"AP": accuracy, "APs": None}, "segm": {"AP": 0.6512, "APs": 0.1}},
        agreement=agreement,
        num_detections=40,
        latency=StageLatency(
            end_to_end=latency_of(model_ms + 3, count),
            pre=latency_of(1, count),
            model=latency_of(model_ms, count),
            post=latency_of(2, count),
        ),
        warm_up=WarmUp(first_ns=5_000_000, num_runs=20, is_stable=True),
        ratio_end_to_end=ratio,
        ratio_model=model_ratio,
        peak_memory_bytes=123_456_789 if agreement else None,
        engine={"engine": name, "threads": 2},
    )


def table_of(text, heading=None):
    """Return the rows of the first Markdown table, or of the one below a heading, by column."""
    lines = text.splitlines()
    lines = lines[0 if heading is None else lines.index(heading) :]
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    count = next(n for n, line in enumerate([*lines[first:], ""]) if not line.startswith("|"))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines[first : first + count]
    ]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


@pytest.fixture
def report():
    ratios = {
        "ratio": Ratio(median=0.412, low=0.401, high=0.423, num_pairs=64),
        "model_ratio": Ratio(median=0.388, low=0.371, high=0.397, num_pairs=64),
    }
    return BenchReport(
        dataset="shapes:val",
        num_pictures=200,
        num_latency_pictures=32,
        reference="torch",
        is_quick=True,
        backends=(
            backend_of("torch", model_ms=100),
            backend_of("onnxruntime", model_ms=40, agreement=AGREEMENT, **ratios),
        ),
        environment=read_environment(),
        settings={"threads": 2},
        interference=QUIET,
    )


def test_a_report_survives_the_round_trip(report):
    assert BenchReport.from_json(report.to_json()) == report


def test_json_keeps_every_sample(report):
    content = json.loads(report.to_json())
    samples = content["backends"][1]["latency"]["model"]["samples_ns"]
    assert samples == list(report.backends[1].latency.model.samples_ns)
    assert len(samples) == 64


@pytest.mark.parametrize("text", ['{"schema": "2.0"}', "{}", "[]"])
def test_another_schema_is_refused(text):
    with pytest.raises(
        ValueError, match=r"expected '1\.1': read it with the edgeseg that wrote it"
    ):
        BenchReport.from_json(text)


def test_the_table_has_a_column_per_backend_and_fits_a_terminal(report):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(render_table(report))
    lines = capture.get().splitlines()
    rows = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in lines if "│" in line]
    assert [row[-1] for row in rows] == [
        "fp32", "2", "64", "0.700", "0.651", "0.995", "0.982",
        "40.03", "40.06", "43.03", "43.06", "23.2",
        "0.39 [0.37, 0.40]", "0.41 [0.40, 0.42]", "123",
    ]  # fmt: skip
    assert max(len(line) for line in lines) <= 80
    assert any("maskrcnn on shapes:val, 200 pictures" in line for line in lines)
    assert "time ratios [bootstrap 95 % interval]" in " ".join(capture.get().split())


def test_the_reference_has_no_agreement_and_no_ratio(report):
    cells = table_of(markdown(report))[0]
    absent = ("box agreement", "mask agreement", "model vs torch", "end-to-end vs torch", "peak MB")
    assert [cells[name] for name in absent] == ["-"] * 5


def test_markdown_has_both_ratios_under_their_headings(report):
    shown = table_of(markdown(report))[1]
    assert shown["model vs torch"] == "0.39 [0.37, 0.40]"
    assert shown["end-to-end vs torch"] == "0.41 [0.40, 0.42]"


def test_models_that_place_points_show_how_far_apart_they_are(report):
    points = replace(AGREEMENT, ap={"points": 0.9123}, mean_iou=None, nme=0.00432)
    backends = (report.backends[0], backend_of("x", model_ms=98, agreement=points))
    lines = markdown(replace(report, backends=backends)).splitlines()
    assert "point agreement" in lines[2]
    assert any(line.startswith("| x | fp32 | 2 | 64 | 0.700 | 0.651 | 0.912 |") for line in lines)
    assert (
        "| backend | matched | label flips | count delta | NME | score MAE | worst images |"
        in lines
    )
    assert any("| -1 | 0.0043 | 0.0021 |" in line for line in lines)


def test_few_samples_show_no_p90(report):
    few = replace(report, backends=(backend_of("torch", model_ms=9, count=10),))
    (cells,) = table_of(markdown(few))
    assert (cells["samples"], cells["model p50"], cells["model p90"]) == ("10", "9.00", "-")


def test_an_unproven_difference_is_marked_equal(report):
    ratio = Ratio(median=0.98, low=0.95, high=1.01, num_pairs=64)
    backends = (report.backends[0], backend_of("x", model_ms=98, agreement=AGREEMENT, ratio=ratio))
    text = markdown(replace(report, backends=backends))
    assert "= 0.98 [0.95, 1.01]" in text


def test_two_samples_show_their_number_and_no_interval(report):
    ratio = Ratio(median=0.35, low=None, high=None, num_pairs=2)
    few = backend_of("x", model_ms=35, count=2, agreement=AGREEMENT, ratio=ratio, model_ratio=ratio)
    few = replace(report, backends=(backend_of("torch", model_ms=100, count=2), few))
    cells = table_of(markdown(few))[1]
    assert cells["samples"] == "2"
    assert cells["model vs torch"] == cells["end-to-end vs torch"] == "0.35 (2 pairs)"
    assert "an interval needs 16 samples" in markdown(few)
    assert BenchReport.from_json(few.to_json()) == few


def test_a_row_that_did_not_settle_says_so_in_the_table(report):
    torch, other = report.backends
    restless = replace(torch, warm_up=replace(torch.warm_up, is_stable=False))
    shown = replace(report, backends=(restless, replace(other, disturbed_rounds=0.25)))
    samples = [cells["samples"] for cells in table_of(markdown(shown))]
    assert samples == ["64, not settled", "64, 25% disturbed"]
    console = Console(width=80)
    with console.capture() as capture:
        console.print(render_table(shown))
    assert "64, not settled" in capture.get()
    assert "Not settled = times still changed when warming up ended" in markdown(shown)
    assert "ot settled" not in markdown(report)


def test_the_table_tells_the_threads_of_every_engine(report):
    torch, other = report.backends
    unknown = replace(other, engine={})
    shown = table_of(markdown(replace(report, backends=(torch, unknown))))
    assert [cells["threads"] for cells in shown] == ["2", "-"]
    bare = replace(report, backends=(replace(torch, engine={}), unknown))
    assert "threads" not in table_of(markdown(bare))[0]


TAKEN = Finding(text="other processes took 60% of the usable cores", spoils="ratios")
HOT = Finding(text="hot cores were slowed down 3 times", spoils="times")


@pytest.mark.parametrize(
    ("findings", "num_backends", "expected"),
    [
        ((), 2, None),
        ((HOT,), 2, "hot cores were slowed down 3 times. Trust the ratios, not the times:"),
        ((TAKEN,), 2, "60% of the usable cores. Trust neither times nor ratios:"),
        ((HOT, TAKEN), 2, "3 times; other processes took 60% of the usable cores. Trust neither"),
        ((HOT,), 1, "3 times. Trust no time. Measure again on an idle machine"),
    ],
    ids=["quiet", "drift", "bursts", "both", "one-backend"],
)
def test_what_spoiled_a_run_decides_what_is_to_be_trusted(report, findings, num_backends, expected):
    busy = replace(report.environment, load_average=(9.0, 0.0, 0.0), num_cores=4)
    shown = replace(report, environment=busy, findings=findings)
    shown = replace(shown, backends=shown.backends[:num_backends])
    text = markdown(shown)
    assert ("While measuring, " in text) == ("rust" in text) == (expected is not None)
    assert expected is None or expected in text
    assert BenchReport.from_json(shown.to_json()) == shown


@pytest.mark.parametrize(("load", "is_noted"), [(0.1, False), (3.0, True)])
def test_of_an_old_report_only_the_load_before_it_is_known(report, load, is_noted):
    environment = replace(report.environment, load_average=(load, 0.0, 0.0), num_cores=4)
    text = markdown(replace(report, environment=environment, interference=None))
    assert ("busy before the run (load average 3.0 on 4 cores)" in text) == is_noted
    assert ("do not trust the times, nor the ratios if it did" in text) == is_noted
    assert "- while measuring: not recorded" in text


def test_a_system_that_tells_nothing_of_others_is_not_taken_for_quiet(report):
    text = markdown(replace(report, interference=replace(QUIET, others_share=None)))
    assert "This system does not tell whether others took cores meanwhile." in text
    assert "does not tell" not in markdown(report)


def test_markdown_tells_what_else_happened(report):
    assert (
        "- while measuring: 1.5 cores at work in 61.2 s, 1.2% of the usable cores' time for others, "
        "0.0% stolen by the hypervisor, 100.0% of the highest clock allowed, load average 1.75 at the end, "
        "0 times too hot"
    ) in markdown(report).splitlines()


def test_markdown_has_the_time_of_each_graph(report):
    def part(graph, frame, rows, num_runs, p50_ms):
        return GraphLatency(graph=graph, frame=frame, rows=rows, num_runs=num_runs, p50_ms=p50_ms)

    graphs = (
        part(None, "first", None, 13, 30.5),
        part("mask", "then", (0, 0), 3, 0.01),
        part("mask", None, (5, 12), 51, 7.25),
    )
    torch, other = report.backends
    shown = replace(report, backends=(torch, replace(other, graphs=graphs)))
    assert [list(cells.values()) for cells in table_of(markdown(shown), "## By graph")] == [
        ["onnxruntime", "all", "first", "-", "13", "30.50"],
        ["onnxruntime", "mask", "then", "0", "3", "0.01"],
        ["onnxruntime", "mask", "every", "5..12", "51", "7.25"],
    ]
    assert BenchReport.from_json(shown.to_json()) == shown
    assert "By graph" not in markdown(report)


def test_markdown_tells_where_it_ran(report):
    text = markdown(report)
    for expected in (
        "Quick run.",
        report.environment.cpu,
        "- settings: threads=2",
        "numpy ",
        "sha256 " + "ab" * 32,
        "7 (0.81)",
        "39 of 40",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("devices", "line"),
    [
        (
            ("CPU: a processor", "GPU: graphics"),
            "- OpenVINO's devices: CPU: a processor, GPU: graphics\n",
        ),
        ((), "- OpenVINO's devices: none\n"),
    ],
)
def test_markdown_names_the_devices_of_openvino_where_it_is_installed(report, devices, line):
    environment = replace(report.environment, openvino_devices=devices)
    shown = replace(report, environment=environment)
    assert line in markdown(shown)
    assert BenchReport.from_json(shown.to_json()) == shown
    absent = replace(report.environment, openvino_devices=None)
    assert "OpenVINO" not in markdown(replace(report, environment=absent))


def test_markdown_tells_what_ran_where(report):
    engine = {
        "engine": "onnxruntime",
        "provider": "CUDA",
        "threads": None,
        "num_nodes": {"CUDA": 7},
    }
    first, other = report.backends
    backends = (replace(first, engine=engine), replace(other, engine={}))
    text = markdown(replace(report, backends=backends))
    line = f"- {first.name} ran on: engine onnxruntime, provider CUDA, 7 nodes on CUDA"
    assert line in text.splitlines()
    assert text.count(" ran on: ") == 1, "nothing is said where nothing is known"


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_table_is_that_of_its_samples(path):
    """Reports of schema 1.0 are read, and every figure they showed is shown; the words may differ."""
    recorded = BenchReport.from_json(path.read_text(encoding="utf-8"))
    shown = table_of(markdown(recorded))
    stages = {cells["backend"]: cells for cells in table_of(markdown(recorded), STAGES)}
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    for cells, now in zip(table_of(text), shown, strict=True):
        assert cells == {name: now[name] for name in cells}
        assert now["samples"].startswith(str(len(recorded.backends[0].latency.pre.samples_ns)))
    for cells in table_of(text, STAGES):
        now = stages[cells["backend"]]
        assert {name: cells[name] for name in now} == now


def test_files_are_written_whole(report, tmp_path):
    json_path, markdown_path = write_report(report, tmp_path / "new")
    assert BenchReport.from_json(json_path.read_text(encoding="utf-8")) == report
    assert markdown_path.read_text(encoding="utf-8") == markdown(report)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["report.json", "report.md"]
    with pytest.raises(FileExistsError, match=r"report\.json, report\.md in .* would be replaced"):
        write_report(report, tmp_path / "new")
    markdown_path.write_text("old", encoding="utf-8")
    write_report(report, tmp_path / "new", overwrite=True)
    assert markdown_path.read_text(encoding="utf-8") == markdown(report)


def test_the_environment_names_this_machine():
    environment = read_environment()
    assert environment.num_usable_cores >= 1
    assert environment.versions["numpy"]
    assert environment.time_utc.endswith("+00:00")
    assert environment.cpu


@pytest.mark.parametrize(
    ("argument", "recorded"),
    [
        ("/home/me/runs/yolact", "yolact"),
        ("out/yolact", "out/yolact"),
        ("--limit", "--limit"),
        ("200", "200"),
        ("coco:/data/coco", "coco:/data/coco"),
    ],
)
def test_a_command_is_recorded_without_the_folders_of_a_machine(argument, recorded):
    assert portable(argument) == recorded


@pytest.mark.parametrize("file", sorted(RESULTS.iterdir()), ids=lambda file: file.name)
def test_no_result_names_a_folder_of_a_machine(file):
    assert re.findall(r'["` ]/(?:tmp|home|root|work)/', file.read_text(encoding="utf-8")) == []


# ---------------------------------------------------------------- which engine to take


def measured(report, *backends, **settings):
    return replace(
        report,
        backends=(backend_of("torch", model_ms=100), *backends),
        settings={**report.settings, **settings},
    )


def test_the_fastest_that_loses_little_is_recommended(report):
    found = recommend(
        measured(
            report,
            backend_of("onnxruntime", model_ms=40, agreement=AGREEMENT),
            backend_of("openvino", model_ms=30, agreement=AGREEMENT, accuracy=0.692),
            backend_of("openvino:bf16", model_ms=15, agreement=AGREEMENT, accuracy=0.68),
        )
    )
    assert found.backend == "openvino"
    assert found.loss == pytest.approx(0.008)
    assert found.speed == pytest.approx(103 / 33, rel=1e-3)


def test_a_larger_drop_may_be_allowed(report):
    backends = [
        backend_of("onnxruntime", model_ms=40, agreement=AGREEMENT),
        backend_of("openvino:bf16", model_ms=15, agreement=AGREEMENT, accuracy=0.68),
    ]
    assert recommend(measured(report, *backends)).backend == "onnxruntime"
    assert recommend(measured(report, *backends, max_drop=0.03)).backend == "openvino:bf16"


def test_without_labels_agreement_decides(report):
    def unlabelled(name, model_ms, share=None):
        agreement = share and replace(AGREEMENT, ap={"bbox": share, "segm": None})
        backend = backend_of(name, model_ms=model_ms, agreement=agreement)
        return replace(backend, accuracy={})

    backends = (
        unlabelled("torch", 100),
        unlabelled("onnxruntime", 40, 0.995),
        unlabelled("openvino", 20, 0.9),
    )
    found = recommend(replace(report, backends=backends))
    assert (found.backend, found.is_agreement) == ("onnxruntime", True)
    assert "less agreement than torch" in found.text("torch")


def test_an_error_counts_the_other_way_round(report):
    def placed(name, model_ms, error):
        backend = backend_of(name, model_ms=model_ms, agreement=AGREEMENT)
        return replace(backend, accuracy={"landmarks": {"NME": error}})

    backends = (
        placed("torch", 100, 0.05),
        placed("onnxruntime", 40, 0.052),
        placed("openvino", 20, 0.09),
    )
    assert recommend(replace(report, backends=backends)).backend == "onnxruntime"


def test_nothing_is_recommended_that_no_device_can_run_or_that_loses_much(report):
    poor = measured(report, backend_of("onnxruntime", model_ms=40, accuracy=0.5))
    assert recommend(poor) is None
    assert advice_lines(poor, "b") == ["No backend that a device can run loses so little accuracy."]
    assert "Fastest with" not in markdown(poor)


def test_it_is_given_as_a_command_and_as_code(report):
    assert advice_lines(report, "out/yolact") == [
        (
            "Fastest with at most 0.01 less accuracy than torch: onnxruntime, 2.39 times as many pictures per "
            "second, 0.000 lost."
        ),
        "  edgeseg run out/yolact SOURCE --backend onnxruntime --threads 2",
        '  edgeseg_runtime.load("out/yolact", backend="onnxruntime", threads=2)',
    ]
    assert "Fastest with at most 0.01 less accuracy than torch" in markdown(report)
