"""The example of docs/adding_a_model.md: its blocks are the files', and its commands work as they stand."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import edgeseg
from edgeseg.cli import main
from edgeseg.models.checkpoint import CheckpointError
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.datasets.shapes import ShapesDataset, write_coco
from edgeseg_runtime import Manifest, load

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
    pytest.mark.usefixtures("operators_listed_once"),
]

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "adding_a_model.md").read_text(encoding="utf-8")
NAME = "spotter:spotter_tiny"
BLOCK = re.compile(
    r"^<!-- (?P<mark>[^>]+) -->\n```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S
)
BLOCKS = [match.groupdict() for match in BLOCK.finditer(PAGE)]
EXCERPTS = [block for block in BLOCKS if block["mark"].startswith("from ")]
FOLLOWED = [block for block in BLOCKS if block["mark"] == "followed in examples"]
MAX_WEIGHTS_BYTES = 300_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of docs/examples that is the current folder, with pictures in it."""
    place = tmp_path_factory.mktemp("docs") / "examples"
    shutil.copytree(DOCS / "examples", place, ignore=shutil.ignore_patterns("__pycache__"))
    write_coco(ShapesDataset("val", limit=2), place)
    (place / "val").rename(place / "pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)  # and what the commands add goes again
        patch.chdir(place)
        yield place
    for name in [name for name in sys.modules if name.split(".")[0] == "spotter"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def followed(folder):
    """The folder after everything on the page was done in it, in its order."""
    for block in FOLLOWED:
        if block["language"] == "python":
            exec(compile(block["code"], "adding_a_model.md", "exec"), {})
            continue
        for line in block["code"].splitlines():
            program, *arguments = shlex.split(line, comments=True)
            assert program == "edgeseg"
            assert main([*arguments, "--quiet"]) == 0, line
    return folder


def test_the_page_shows_and_does_something():
    assert len(EXCERPTS) >= 6
    assert [block["language"] for block in FOLLOWED] == ["bash", "python"]


def without_indentation(code):
    return "\n".join(line.strip() for line in code.strip().splitlines())


@pytest.mark.parametrize("block", EXCERPTS, ids=lambda block: block["mark"])
def test_a_block_is_a_part_of_the_file_that_it_names(block):
    file = DOCS / block["mark"].removeprefix("from ")
    assert without_indentation(block["code"]) in without_indentation(file.read_text("utf-8"))


def test_the_model_is_listed_with_its_weights(folder, capsys):
    assert main(["models", "spotter:", "--json"]) == 0
    cards = json.loads(capsys.readouterr().out)["models"]
    assert [card["name"] for card in cards] == ["spotter:spotter_small", NAME]
    assert [card["weights"] for card in cards] == [[], ["shapes"]]
    for card in cards:
        model = edgeseg.create_model(card["name"])
        assert sum(p.numel() for p in model.parameters()) == card["num_parameters"]


def test_the_shipped_weights_are_small():
    (file,) = (DOCS / "examples" / "spotter" / "weights").iterdir()
    assert file.stat().st_size < MAX_WEIGHTS_BYTES


def test_options_reach_the_model_and_wrong_ones_are_named(folder, capsys):
    model = edgeseg.create_model(NAME, image_size=(96, 128), max_detections=5)
    assert model.config.image_size == (96, 128)
    assert main(["export", NAME, "--set", "max_detection=5"]) == 2
    assert "--set 'max_detection' found, expected one of max_detections" in capsys.readouterr().err
    assert main(["export", NAME, "--image-size", "100"]) == 2
    assert "image_size 100x100 found, expected positive multiples" in capsys.readouterr().err


def test_a_checkpoint_is_taken_or_refused_as_that_of_any_model(folder):
    state = edgeseg.create_model(NAME, weights="shapes").state_dict()
    tuned = edgeseg.create_model(NAME, num_classes=2).state_dict()
    model = edgeseg.create_model(NAME, weights=tuned, num_classes=2)
    assert model.config.labels == ("class_1", "class_2")
    with pytest.raises(CheckpointError, match=r"2 misshapen: head\.predictor\.weight"):
        edgeseg.create_model(NAME, weights=tuned)
    del state["head.predictor.bias"]
    with pytest.raises(CheckpointError, match=r"1 missing: head\.predictor\.bias"):
        edgeseg.create_model(NAME, weights=state)


def test_following_the_page_gives_the_model_on_every_way(followed):
    manifest = Manifest.load(followed / "spotter_fp32")
    assert (manifest.name, manifest.provenance["model"]) == ("spotter_tiny", NAME)
    assert manifest.provenance["weights"] == "shapes"
    report = json.loads((followed / "spotter_fp32-bench" / "report.json").read_text())
    torch, onnxruntime = report["backends"]
    assert onnxruntime["agreement"]["ap"]["bbox"] == pytest.approx(1, abs=1e-3)
    assert torch["accuracy"]["bbox"]["AP"] > 0.15, "it was trained"


def test_int8_reaches_the_modules_of_its_recipe(followed):
    lowered = Manifest.load(followed / "spotter_int8").parity["precision"]
    assert lowered["num_nodes"]["int8"] > 5
    assert lowered["agreement_with_fp32"]["ap"]["bbox"] > 0.9


def test_the_own_output_arrives_with_the_detections(followed):
    image = open_dataset("shapes", limit=1)[0].image
    wanted = edgeseg.torch_predictor(edgeseg.create_model(NAME, weights="shapes"))(image)
    with load(followed / "spotter_fp32", backend="onnxruntime") as predictor:
        found = predictor(image)
    assert len(found) == 30
    np.testing.assert_allclose(found.extra["fill"], wanted.extra["fill"], atol=1e-4)
    sure = found.filter(score=0.3)
    assert 0 < len(sure) < 30
    assert sure.extra["fill"].tolist() == [record["fill"] for record in sure.records(1)]


@pytest.mark.parametrize(
    "command",
    [["bench", "spotter_fp32", "--out", "named"], ["compare", "torch", "spotter_fp32"]],
    ids=lambda c: c[0],
)
def test_a_module_is_imported_only_if_it_is_named(followed, capsys, command):
    assert main([*command, "--limit", "1"]) == 2
    message = capsys.readouterr().err
    assert "exported from the model 'spotter:spotter_tiny' outside edgeseg" in message
    assert f"if you trust it, give --model {NAME}" in message
    assert main([*command, "--limit", "1", "--model", "spotter:spotter_tinny"]) == 2
    assert "expected one of those of module spotter: spotter_tiny" in capsys.readouterr().err
