"""What a run writes of surfaces: the chosen way of drawing, part, u and v as files, and how many have none."""

import json
import threading

import cv2
import numpy as np
import pytest
from fake_model import fake_predictor, task_manifest

from edgeseg_runtime.commands.recording import output_folder, record
from edgeseg_runtime.commands.writing import Drawing
from edgeseg_runtime.picture.sources import Source

SIZE = 48
SHAPES = {
    "boxes": (3, 4),
    "scores": (3,),
    "labels": (3,),
    "surface_coarse": (2, 2, 8, 8),
    **{f"surface_{name}": (2, 5, 8, 8) for name in ("fine", "u", "v")},
}


def outputs():
    """Return three persons, of whom the two best have a surface, u rising to the right."""
    values = {name: np.zeros((1, *shape), np.float32) for name, shape in SHAPES.items()}
    values["boxes"][0] = [[4, 4, 24, 24], [20, 10, 44, 40], [0, 20, 16, 44]]
    values["scores"][0] = 0.9, 0.8, 0.7
    values["labels"] = values["labels"].astype(np.int32)
    values["surface_coarse"][0, :, 1] = 1
    values["surface_fine"][0, :, 3] = 1
    values["surface_u"][:] = np.linspace(0, 1, 8)
    return values


def predictor(shapes=SHAPES, given=None):
    preprocess = {"resize": "stretch", "rounding": "floor"}
    manifest = task_manifest("instances", shapes, size=(SIZE, SIZE), preprocess=preprocess)
    return fake_predictor(manifest, given or outputs())


def run(folder, drawing, *, sources=None, of=None, score=0.5):
    if sources is None:
        picture = folder / "people.png"
        assert cv2.imwrite(str(picture), np.full((SIZE, SIZE, 3), 90, np.uint8))
        sources = [Source(picture)]
    out = output_folder(sources, folder / "out", drawing=drawing, writes_json=True, overwrite=False)
    return record(
        of or predictor(),
        sources,
        out,
        score=score,
        drawing=drawing,
        stop=threading.Event(),
        progress=lambda *_: None,
    )


def test_part_u_and_v_are_written_beside_each_picture(tmp_path):
    outcome = run(tmp_path, Drawing(writes_iuv=True, draws=False))
    names = [file.name for file in outcome.files]
    assert names == ["people_iuv.png", "predictions.json"]
    iuv = cv2.imread(str(tmp_path / "out" / "people_iuv.png"))[..., ::-1]
    expected = predictor()(cv2.imread(str(tmp_path / "people.png"))).iuv()
    np.testing.assert_array_equal(iuv, expected)
    assert set(np.unique(iuv[..., 0])) == {0, 3}


@pytest.mark.parametrize(
    ("chosen", "style"), [("contours", "contours"), ("iuv", "iuv"), (None, "parts")]
)
def test_surfaces_are_drawn_as_chosen(tmp_path, chosen, style):
    run(tmp_path, Drawing(surfaces=chosen))
    picture = cv2.imread(str(tmp_path / "people.png"))
    found = predictor()(picture).filter(score=0.5)
    drawn = found.draw(picture, surfaces=style)
    _, expected = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert (tmp_path / "out" / "people.jpg").read_bytes() == expected.tobytes()


@pytest.mark.parametrize(("score", "count"), [(0.75, 0), (0.5, 1)])
def test_persons_without_a_surface_are_counted_from_the_chosen_score_on(tmp_path, score, count):
    assert run(tmp_path, Drawing(), score=score).num_left_out == count
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert sum("densepose" not in record for record in records) == count


def test_surfaces_of_a_model_without_them_are_refused(tmp_path):
    boxes = {name: SHAPES[name] for name in ("boxes", "scores", "labels")}
    given = {name: outputs()[name] for name in boxes}
    for drawing, option in (
        (Drawing(writes_iuv=True), "--iuv"),
        (Drawing(surfaces="u"), "--surfaces u"),
    ):
        with pytest.raises(ValueError, match=f"{option} is given, but fake gives no surfaces"):
            run(tmp_path, drawing, of=predictor(boxes, given))
    assert not (tmp_path / "out" / "predictions.json").exists()


def test_a_way_of_drawing_is_checked_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="surfaces is 'dots'; expected one of parts, u, v"):
        Drawing(surfaces="dots")
    with pytest.raises(ValueError, match="--surfaces u is given, and --no-draw: nothing is drawn"):
        Drawing(surfaces="u", draws=False)
    with pytest.raises(
        ValueError, match=r"--iuv writes a file for each picture, but .* is a video"
    ):
        run(tmp_path, Drawing(writes_iuv=True), sources=[Source("rtsp://nowhere/camera")])
