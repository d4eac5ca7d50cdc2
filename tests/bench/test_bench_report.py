"""Reports survive the round trip through JSON and show what was measured, no more."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from edgeseg_bench.environment import portable, read_environment
from edgeseg_bench.latency import Latency, Ratio, WarmUp
from edgeseg_bench.metrics.agreement import Agreement, ImageAgreement
from edgeseg_bench.report import markdown, render_table, write_report
from edgeseg_bench.results import BackendReport, BenchReport, StageLatency

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
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
    )


@pytest.fixture
def report():
    ratios = {
        "ratio": Ratio(median=0.412, low=0.401, high=0.423),
        "model_ratio": Ratio(median=0.388, low=0.371, high=0.397),
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
        ValueError, match=r"expected '1\.0': read it with the edgeseg that wrote it"
    ):
        BenchReport.from_json(text)


def test_the_table_has_a_column_per_backend_and_fits_a_terminal(report):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(render_table(report))
    lines = capture.get().splitlines()
    rows = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in lines if "│" in line]
    assert [row[-1] for row in rows] == [
        "fp32", "0.700", "0.651", "0.995", "0.982",
        "40.03", "40.06", "43.03", "43.06", "23.2",
        "0.39 [0.37, 0.40]", "0.41 [0.40, 0.42]", "123",
    ]  # fmt: skip
    assert max(len(line) for line in lines) <= 80
    assert any("maskrcnn on shapes:val, 200 pictures" in line for line in lines)
    assert "time ratios [bootstrap 95 % interval]" in " ".join(capture.get().split())


def test_the_reference_has_no_agreement_and_no_ratio(report):
    row = next(line for line in markdown(report).splitlines() if line.startswith("| torch"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[4:6] == ["-", "-"]
    assert cells[-3:] == ["-", "-", "-"]


def test_markdown_has_both_ratios_under_their_headings(report):
    lines = [line for line in markdown(report).splitlines() if line.startswith("| ")]
    headings, row = ([cell.strip() for cell in lines[n].strip("|").split("|")] for n in (0, 3))
    shown = dict(zip(headings, row, strict=True))
    assert shown["model vs torch"] == "0.39 [0.37, 0.40]"
    assert shown["end-to-end vs torch"] == "0.41 [0.40, 0.42]"


def test_models_that_place_points_show_how_far_apart_they_are(report):
    points = replace(AGREEMENT, ap={"points": 0.9123}, mean_iou=None, nme=0.00432)
    backends = (report.backends[0], backend_of("x", model_ms=98, agreement=points))
    lines = markdown(replace(report, backends=backends)).splitlines()
    assert "point agreement" in lines[2]
    assert any(line.startswith("| x | fp32 | 0.700 | 0.651 | 0.912 |") for line in lines)
    assert (
        "| backend | matched | label flips | count delta | NME | score MAE | worst images |"
        in lines
    )
    assert any("| -1 | 0.0043 | 0.0021 |" in line for line in lines)


def test_few_samples_show_no_p90(report):
    few = replace(report, backends=(backend_of("torch", model_ms=9, count=10),))
    row = next(line for line in markdown(few).splitlines() if line.startswith("| torch"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[4:6] == ["9.00", "-"]


def test_an_unproven_difference_is_marked_equal(report):
    ratio = Ratio(median=0.98, low=0.95, high=1.01)
    backends = (report.backends[0], backend_of("x", model_ms=98, agreement=AGREEMENT, ratio=ratio))
    text = markdown(replace(report, backends=backends))
    assert "= 0.98 [0.95, 1.01]" in text


@pytest.mark.parametrize(("load", "is_noted"), [(0.1, False), (3.0, True)])
def test_a_busy_machine_is_noted(report, load, is_noted):
    environment = replace(report.environment, load_average=(load, 0.0, 0.0), num_cores=4)
    text = markdown(replace(report, environment=environment))
    assert ("busy before the run (load average 3.0 on 4 cores)" in text) == is_noted


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


def test_markdown_tells_what_ran_where(report):
    engine = {
        "engine": "onnxruntime",
        "provider": "CUDA",
        "threads": None,
        "num_nodes": {"CUDA": 7},
    }
    first, *rest = report.backends
    text = markdown(replace(report, backends=(replace(first, engine=engine), *rest)))
    line = f"- {first.name} ran on: engine onnxruntime, provider CUDA, 7 nodes on CUDA"
    assert line in text.splitlines()
    assert text.count(" ran on: ") == 1, "nothing is said where nothing is known"


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_table_is_that_of_its_samples(path):
    recorded = BenchReport.from_json(path.read_text(encoding="utf-8"))
    assert path.with_suffix(".md").read_text(encoding="utf-8") == markdown(recorded)


def test_files_are_written_whole(report, tmp_path):
    json_path, markdown_path = write_report(report, tmp_path / "new")
    assert BenchReport.from_json(json_path.read_text(encoding="utf-8")) == report
    assert markdown_path.read_text(encoding="utf-8") == markdown(report)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["report.json", "report.md"]


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
