"""`edgeseg compare`: exit codes, what is shown and what is written."""

import json

import cv2
import numpy as np
import pytest
from onnx import numpy_helper
from precision_cases import SIZE, bright_squares, square_detector, write_square_bundle


@pytest.fixture
def squares(tmp_path):
    """Return the folder of pictures of bright squares."""
    folder = tmp_path / "squares"
    folder.mkdir()
    for number in range(3):
        assert cv2.imwrite(str(folder / f"{number}.png"), bright_squares(number))
    return folder


@pytest.fixture
def bundles(tmp_path):
    """Return a bundle and its copy in which the convolution of `body` has another sign."""
    broken = square_detector().copy()
    (weight,) = [t for t in broken.graph.initializer if t.name == "body.weight"]
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    return (
        write_square_bundle(tmp_path / "full", square_detector()),
        write_square_bundle(tmp_path / "broken", broken),
    )


def test_the_broken_node_is_shown_and_everything_is_written(command, bundles, squares, tmp_path):
    out = tmp_path / "report"
    out.mkdir()
    (out / "report.md").write_text("of an earlier day", encoding="utf-8")
    code, text, err = command("compare", *bundles, "--data", squares, "-o", out, "--overwrite")
    assert (code, text.splitlines()[-1]) == (0, str(out))
    assert "the first bad node is body/Conv" in " ".join(text.split())
    assert "ONNX fp32" in text
    assert "✓ compare the nodes" in err
    assert sorted(path.name for path in out.iterdir()) == [
        "report.json",
        "report.md",
        *(f"worst_{rank}_{rank - 1}.jpg" for rank in (1, 2, 3)),
    ]
    assert "| body/Conv | fp32 |" in (out / "report.md").read_text()
    pair = cv2.imread(str(out / "worst_1_0.jpg"))
    assert pair.shape[0] == SIZE
    left, right = pair[:, :SIZE], pair[:, -SIZE:]
    assert np.abs(left.astype(int) - right).max() > 50, "only the reference found something"
    assert json.loads((out / "report.json").read_text())["first_bad_tap"] == "body/Conv"


def test_a_condition_that_holds_sets_the_exit_code(command, bundles, squares):
    arguments = ["compare", *bundles, "--data", squares, "--limit", "2"]
    code, _, err = command(*arguments, "--fail-on", "agreement_ap<0.98")
    assert code == 1
    assert "agreement_ap<0.98 holds: it is 0" in err
    assert command(*arguments, "--fail-on", "agreement_ap>0.98")[0] == 0
    code, document = command.json(
        *arguments, "--fail-on", "num_bad_taps>1", "--fail-on", "min_cosine<1,count_delta<0"
    )
    assert code == 1
    assert document["failed_on"] == ["min_cosine<1", "count_delta<0"]
    assert document["report"]["num_pictures"] == 2
    assert document["files"] == []


def test_a_bundle_agrees_with_itself(command, bundles, squares):
    full = bundles[0]
    code, document = command.json(
        "compare", full, full, "--data", squares, "--fail-on", "agreement_ap<1,num_bad_taps>0"
    )
    assert (code, document["failed_on"]) == (0, [])
    assert document["report"]["first_bad_tap"] is None


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--fail-on", "agreement<1"], 2, "metric 'agreement' found, expected one of agreement_ap"),
        (["--fail-on", "agreement_ap"], 2, "such as agreement_ap<0.98"),
        (["--fail-on", "agreement_ap_segm<1"], 2, "there is no agreement_ap_segm here"),
        (["--data", "missing"], 2, "missing does not exist"),
        (["--limit", "0"], 2, "Invalid value for '--limit'"),
    ],
)
def test_mistakes_are_named(command, bundles, squares, options, code, message):
    found, out, err = command("compare", *bundles, "--data", squares, *options)
    assert (found, out) == (code, "")
    assert message in err


def test_what_is_no_bundle_is_refused(command, bundles, tmp_path):
    code, _, err = command("compare", tmp_path / "nothing", bundles[0])
    assert code == 3
    assert "nothing" in err
    code, _, err = command("compare", "torch", bundles[0])
    assert code == 2
    assert "does not record how its model was made" in err
    (bundles[1] / "model.onnx").write_bytes(b"changed")
    assert command("compare", *bundles)[0] == 3


def test_a_model_of_joints_is_compared_on_what_is_about_each_person(command, bundle_of, tmp_path):
    full = bundle_of("hourglass_tiny")
    out = tmp_path / "report"
    code, document = command.json(
        "compare", full, full, "--data", "shapes", "--limit", 3, "--fail-on",
        "agreement_ap_points<1,nme>0,worst_quality<1,num_bad_taps>0", "-o", out,
    )  # fmt: skip
    assert (code, document["failed_on"]) == (0, [])
    assert document["report"]["num_pictures"] == 3
    assert document["report"]["agreement"]["ap"] == {"points": 1}
    assert len(set(document["report"]["names"].values())) == 3
    for picture in out.glob("worst_*.jpg"):
        assert max(cv2.imread(str(picture)).shape[:2]) < 700, "a pair of whole pictures is wider"


def test_where_nothing_is_found_there_is_nothing_to_compare(command, bundles, tmp_path):
    folder = tmp_path / "black"
    folder.mkdir()
    assert cv2.imwrite(str(folder / "0.png"), np.zeros((SIZE, SIZE, 3), np.uint8))
    arguments = ["compare", bundles[0], bundles[0], "--data", folder]
    code, text, _ = command(*arguments)
    assert code == 0
    assert "nothing to compare" in " ".join(text.split())
    _, document = command.json(*arguments)
    assert document["report"]["agreement"]["ap"] == {"bbox": None}
    assert document["report"]["agreement"]["worst"] == []
    code, _, err = command(*arguments, "--fail-on", "agreement_ap<0.98")
    assert (code, "there is no agreement_ap here" in err) == (2, True)
