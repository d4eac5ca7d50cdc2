"""Predictor: from a picture to Instances with a given model, its contract, streams and threads."""

import ast
import inspect
import logging
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_model import (
    FakeBackend,
    fake_predictor,
    instance_manifest,
    instance_outputs,
    task_manifest,
)

import edgeseg_runtime
from edgeseg_runtime import errors
from edgeseg_runtime.backends import BACKENDS, CheckedBackend, open_backend
from edgeseg_runtime.errors import (
    BackendUnavailable,
    EdgesegError,
    ImageError,
    InputContractError,
    ManifestError,
    NonFiniteOutput,
    OutOfMemory,
    OutputContractError,
    SourceError,
)
from edgeseg_runtime.picture.sources import Source
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.tasks import create_task

BOXES = [[8, 4, 24, 20], [0, 0, 64, 48], [0, 0, 0, 0]]
PICTURE = np.full((96, 128, 3), 50, np.uint8)  # twice the network's input


def outputs(**changes):
    rows = {
        "boxes": BOXES,
        "scores": [0.9, 0.5, 0.0],
        "labels": [1, 3, 0],
        "masks": np.ones((3, 8, 8)),
    }
    return instance_outputs(**{**rows, **changes})


# ---------------------------------------------------------------- results


@pytest.mark.parametrize("score", [0.0, -1.0])
def test_a_model_that_finds_nothing_gives_shaped_arrays(score):
    result = fake_predictor(instance_manifest(), outputs(scores=[score] * 3))(PICTURE)
    assert len(result) == 0
    assert result.masks.shape == (0, 96, 128)
    assert result.num_nonfinite == 0


def test_padding_is_dropped_and_boxes_come_back_in_source_pixels():
    result = fake_predictor(instance_manifest(), outputs())(PICTURE)
    np.testing.assert_array_equal(result.boxes, [[16, 8, 48, 40], [0, 0, 128, 96]])
    np.testing.assert_array_equal(result.labels, [1, 3])
    assert result.masks.shape == (2, 96, 128)
    assert result.masks[0, 20, 30]
    assert not result.masks[0, 60, 30]
    assert result.masks[1, 8:-8, 8:-8].all(), "an all-ones map fades towards its border"
    assert [entry["category_id"] for entry in result.to_coco(1)] == [17, 18]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_dropped_and_counted(value):
    boxes = np.array(BOXES, np.float32)
    boxes[1, 2] = value
    result = fake_predictor(instance_manifest(), outputs(boxes=boxes))(PICTURE)
    assert (len(result), result.num_nonfinite) == (1, 1)
    boxes[1, 2] = 3e38  # would overflow on its way to the source picture
    assert fake_predictor(instance_manifest(), outputs(boxes=boxes))(PICTURE).num_nonfinite == 1
    result = fake_predictor(instance_manifest(), outputs(scores=[value, 0.5, 0.0]))(PICTURE)
    assert (result.scores.tolist(), result.num_nonfinite) == ([0.5], 1)
    assert "1 nonfinite dropped" in repr(result)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_heat_map_that_is_not_finite_gives_no_points_and_is_counted(value):
    heatmaps = np.zeros((3, 2, 56, 56))
    heatmaps[:2, :, 30, 20] = 1
    heatmaps[0] = value
    manifest = instance_manifest(joints=2)
    model = fake_predictor(manifest, outputs(masks=None, heatmaps=heatmaps))
    result = model(PICTURE)
    assert (len(result), result.num_nonfinite) == (2, 1)
    assert not result.keypoints[0].any()
    assert (result.keypoints[1, :, 2] > 0.5).all()
    heatmaps[0, 1] = heatmaps[1, 1]
    result = fake_predictor(manifest, outputs(masks=None, heatmaps=heatmaps))(PICTURE)
    assert result.num_nonfinite == 1
    assert [bool(points.any()) for points in result.keypoints[0]] == [False, True]


def test_a_mask_that_is_not_finite_is_no_mask():
    masks = np.ones((3, 8, 8))
    masks[0] = np.nan
    result = fake_predictor(instance_manifest(), outputs(masks=masks))(PICTURE)
    assert result.masks.any(axis=(1, 2)).tolist() == [False, True]


def test_low_scores_and_empty_boxes_can_be_dropped():
    manifest = instance_manifest(score_threshold=0.5)
    assert len(fake_predictor(manifest, outputs())(PICTURE)) == 1
    boxes = [[8, 4, 24, 20], [70, 0, 80, 9], [0, 0, 0, 0]]  # the second one lies outside
    manifest = instance_manifest(drop_empty_boxes=True, mask_paste="grid_sample")
    assert len(fake_predictor(manifest, outputs(boxes=boxes))(PICTURE)) == 1


def test_masks_over_the_whole_input():
    masks = np.zeros((3, 12, 16))
    masks[:, :6] = 1.0
    manifest = instance_manifest(cells=(12, 16), mask_paste="none")
    result = fake_predictor(manifest, outputs(masks=masks))(PICTURE)
    assert result.masks[1, :47].all()
    assert not result.masks[1, 49:].any()
    np.testing.assert_array_equal(result.masks[0], result.masks[1])  # not cut at the box


def test_key_points_come_back_in_source_pixels():
    heatmaps = np.zeros((3, 2, 56, 56))
    heatmaps[:, 0, 28, 14] = 5.0
    heatmaps[:, 1, 42, 28] = 7.0
    manifest = instance_manifest(joints=2)
    result = fake_predictor(manifest, outputs(masks=None, heatmaps=heatmaps))(PICTURE)
    assert result.masks is None
    np.testing.assert_allclose(result.keypoints[1, :, :2], [[33, 49], [65, 73]], atol=2)
    np.testing.assert_allclose(result.keypoints[1, :, 2], [5, 7], rtol=0.1)


def test_the_size_of_the_picture_goes_in_only_where_the_model_takes_it():
    with_size, _ = create_task(instance_manifest()).preprocess(PICTURE)
    assert with_size["image_size"].tolist() == [[48, 64]]
    assert with_size["image_size"].dtype == np.int32
    without, _ = create_task(instance_manifest(takes_size=False)).preprocess(PICTURE)
    assert without.keys() == {"image"}


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 3)])
def test_any_size_of_picture_goes_through(size):
    result = fake_predictor(instance_manifest(), outputs())(np.zeros((*size, 3), np.uint8))
    assert result.masks.shape == (2, *size)


# ---------------------------------------------------------------- the contract


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_paste": "glue"}, "option|mask_paste 'glue'; expected one of expanded_box"),
        ({"colour": 1}, "has option 'colour'; expected one of mask_paste"),
        ({"score_threshold": 2.0}, "score_threshold 2.0; expected a number in 0..1"),
        ({"drop_empty_boxes": 1}, "drop_empty_boxes 1; expected true or false"),
        ({"joints": 2, "mask_paste": "grid_sample"}, "without an output masks"),
        ({"keypoints": "bicubic_argmax"}, "together with an output keypoint_heatmaps"),
    ],
)
def test_a_manifest_that_is_no_instance_task_is_refused(changes, message):
    with pytest.raises(ManifestError, match=message):
        create_task(instance_manifest(**changes))


@pytest.mark.parametrize(
    ("outputs_changed", "message"),
    [
        (lambda o: o.pop("scores"), "the model gave no output 'scores', only .*'boxes'"),
        (
            lambda o: o.update(boxes=o["boxes"][:, :2]),
            r"'boxes' is float32 of shape \[1, 2, 4\]; expected float32 of shape \[batch, 3, 4\]",
        ),
        (lambda o: o.update(labels=o["labels"].astype(np.int64)), "expected int32 of shape"),
        (lambda o: o.update(masks=[1]), "'masks' is a list; expected a NumPy array"),
    ],
)
def test_outputs_that_are_not_the_manifests_are_refused(outputs_changed, message):
    given = outputs()
    outputs_changed(given)
    backend = FakeBackend(given)
    backend.run = lambda *_: given
    predictor = Predictor(instance_manifest(), create_task(instance_manifest()), backend)
    with pytest.raises(OutputContractError, match=message) as caught:
        predictor(PICTURE)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.pop("image"), r"found the inputs \['image_size'\]; the model takes exactly"),
        (lambda i: i.update(more=i["image"]), "takes exactly"),
        (lambda i: i.update(image=i["image"].astype(np.float32)), "'image' is float32 of shape"),
        (lambda i: i.update(image=i["image"][:, :-1]), r"expected uint8 of shape \[batch, 48, 64"),
        (lambda i: i.update(image_size=np.zeros((2, 2), np.int32)), "'image_size' is int32"),
    ],
)
def test_inputs_that_are_not_the_manifests_are_refused(change, message):
    manifest = instance_manifest()
    backend = CheckedBackend("fake", FakeBackend(outputs()), manifest)
    inputs, _ = create_task(manifest).preprocess(PICTURE)
    change(inputs)
    with pytest.raises(InputContractError, match=message):
        backend.run(inputs)


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize("name", ["boxes", "scores", "masks"])
def test_strict_refuses_every_output_that_is_not_finite(name, value):
    given = outputs()
    backend = CheckedBackend("fake", FakeBackend(given), instance_manifest(), strict=True)
    inputs, _ = create_task(instance_manifest()).preprocess(PICTURE)
    assert len(backend.run(inputs)) == 4
    given[name][0, 0] = value
    with pytest.raises(NonFiniteOutput, match=rf"'{name}' holds \d+ NaN or infinite") as caught:
        backend.run(inputs)
    assert caught.value.exit_code == 4
    assert "load it without" in str(caught.value).lower()


def test_every_result_says_which_backend_made_it():
    def predictor(task, outputs):
        manifest = task_manifest(task, {name: array.shape for name, array in outputs.items()})
        batch = {name: array[None] for name, array in outputs.items()}
        return fake_predictor(manifest, batch)

    boxes = [[0, 0, 9, 9], [5, 5, 20, 30]]
    points, scores = np.ones((5, 2), np.float32), np.ones(5, np.float32)
    found = fake_predictor(instance_manifest(), outputs())(PICTURE)
    assert {found.backend, found[0].backend, found.filter(score=2).backend} == {"FakeBackend"}
    poses = predictor("keypoints", {"keypoints": np.ones((5, 3), np.float32)})
    assert poses(PICTURE).backend == poses(PICTURE, boxes=boxes).backend == "FakeBackend"
    faces = predictor("landmarks", {"points": points, "scores": scores})
    assert faces(PICTURE).backend == "FakeBackend"
    assert [face.backend for face in faces(PICTURE, boxes=boxes)] == ["FakeBackend"] * 2


def test_exhausted_memory_is_translated():
    backend = FakeBackend(outputs())

    def run(*_):
        raise MemoryError

    backend.run = run
    predictor = Predictor(instance_manifest(), create_task(instance_manifest()), backend)
    with pytest.raises(OutOfMemory, match="smaller --image-size") as caught:
        predictor(PICTURE)
    assert caught.value.exit_code == 5


def test_a_picture_of_another_layout_never_reaches_the_engine():
    predictor = fake_predictor(instance_manifest(), outputs())
    with pytest.raises(ImageError, match="COLOR_GRAY2BGR"):
        predictor(PICTURE[..., 0])
    assert predictor.backend.backend.num_runs == 0


def test_a_predictor_closes_its_engine_once():
    with fake_predictor(instance_manifest(), outputs()) as predictor:
        predictor(PICTURE)
    predictor.close()
    assert predictor.backend.backend.num_closed == 1
    with pytest.raises(ValueError, match="backend is closed; load the bundle again"):
        predictor(PICTURE)


def test_a_predictor_says_what_it_is():
    predictor = fake_predictor(instance_manifest(), outputs())
    assert repr(predictor) == "Predictor(fake, instances, 48x64, fp32, FakeBackend)"


def test_many_threads_get_the_same_results():
    predictor = fake_predictor(instance_manifest(), outputs())
    pictures = [np.full((40 + i, 60, 3), i, np.uint8) for i in range(24)]
    expected = [predictor(picture).masks for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda picture: predictor(picture).masks, pictures))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_stages_are_timed():
    predictor = fake_predictor(instance_manifest(), outputs())
    result, times = predictor.profile(PICTURE, paste_masks=True)
    assert len(result) == 2
    stages = (times.preprocess_ms, times.model_ms, times.postprocess_ms)
    assert all(stage > 0 for stage in stages)
    assert times.total_ms == pytest.approx(sum(stages))
    assert predictor.warm_up(num_runs=3) > 0
    assert predictor.backend.backend.num_runs == 4


# ---------------------------------------------------------------- opening


def test_an_unknown_backend_is_a_usage_error(tmp_path):
    with pytest.raises(ValueError, match="backend is 'magic'; expected one of auto, onnx"):
        open_backend("magic", tmp_path, instance_manifest())
    with pytest.raises(ValueError, match="threads is 0"):
        open_backend("onnxruntime", tmp_path, instance_manifest(), threads=0)


class Absent:
    """A backend whose library is missing, with one option."""

    def __init__(self, folder, manifest, *, threads, verify, contexts=2):
        raise ModuleNotFoundError("No module named 'engine'")

    @classmethod
    def obstacle(cls, folder, manifest):
        return None


class Present(FakeBackend):
    """A backend that opens, with one option."""

    def __init__(self, folder, manifest, *, threads, verify, colour="grey"):
        super().__init__(outputs())
        self.colour = colour

    @classmethod
    def obstacle(cls, folder, manifest):
        return "it is not wanted"


@pytest.fixture
def own_backends(monkeypatch):
    """Make the tests' classes importable and list them in place of the engines."""
    module = sys.modules[Present.__module__]
    monkeypatch.setitem(sys.modules, "own_backends", module)
    monkeypatch.setitem(BACKENDS, "tensorrt", "own_backends:Absent")
    monkeypatch.setitem(BACKENDS, "tensorrt_rtx", "own_backends:Present")
    monkeypatch.setitem(BACKENDS, "onnxruntime", "own_backends:Present")


@pytest.mark.usefixtures("own_backends")
def test_a_missing_library_names_the_command(tmp_path):
    with pytest.raises(BackendUnavailable, match=r"No module named 'engine'.*pip install tensorrt"):
        open_backend("tensorrt", tmp_path, instance_manifest())


@pytest.mark.usefixtures("own_backends")
def test_auto_tells_what_it_chose_and_why(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="edgeseg_runtime.backends")
    backend = open_backend("auto", tmp_path, instance_manifest())
    assert backend.name == "onnxruntime"
    assert "backend auto: tensorrt failed, trying the next one" in caplog.text
    assert "backend auto: not tensorrt_rtx, because it is not wanted" in caplog.text
    assert "backend auto: onnxruntime" in caplog.text


@pytest.mark.usefixtures("own_backends")
def test_auto_gives_each_backend_the_options_that_it_knows(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="edgeseg_runtime.backends")
    backend = open_backend("auto", tmp_path, instance_manifest(), contexts=3, colour="red")
    assert (backend.name, backend.backend.colour) == ("onnxruntime", "red")
    assert "backend auto: onnxruntime has no option contexts" in caplog.text


@pytest.mark.usefixtures("own_backends")
def test_an_option_that_no_backend_of_auto_knows_is_a_usage_error(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"'magic' is not an option of any backend; .*tensorrt takes contexts; .*colour",
    ):
        open_backend("auto", tmp_path, instance_manifest(), colour="red", magic=1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("onnxruntime", "providers, is_spinning, has_arena, profile, allow_operators, winograd"),
        ("openvino", "device, precision, allow_operators, winograd"),
        (
            "tensorrt",
            "device, engines_folder, options, progress, contexts, use_graph, allow_operators",
        ),
        (
            "tensorrt_rtx",
            "device, engines_folder, options, progress, contexts, use_graph, allow_operators",
        ),
    ],
)
def test_an_option_that_the_backend_does_not_know_names_those_it_has(tmp_path, name, options):
    with pytest.raises(
        ValueError, match=f"'magic' is not an option of any backend; {name} takes {options}$"
    ):
        open_backend(name, tmp_path, instance_manifest(), magic=1)


def test_no_bundle_is_a_typed_error(tmp_path):
    with pytest.raises(ManifestError, match="there is no bundle at"):
        edgeseg_runtime.load(tmp_path)


# ---------------------------------------------------------------- streams


def write_pictures(folder, count=3):
    for index in range(count):
        assert cv2.imwrite(os.fspath(folder / f"{index}.png"), PICTURE)


def test_a_folder_gives_its_pictures_in_order_and_skips_damaged_ones(tmp_path, caplog):
    write_pictures(tmp_path)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:-20])
    (tmp_path / "notes.txt").write_text("no picture", "utf-8")
    source = Source(tmp_path)
    predictor = fake_predictor(instance_manifest(), outputs())
    pairs = list(predictor.stream_frames(source))
    assert [Path(frame.name).name for frame, _ in pairs] == ["0.png", "2.png"]
    assert [frame.index for frame, _ in pairs] == [0, 2]
    assert all(len(result) == 2 for _, result in pairs)
    assert source.num_skipped == 1
    assert "it is cut off" in caplog.text


def test_a_pattern_and_a_single_picture(tmp_path):
    write_pictures(tmp_path)
    predictor = fake_predictor(instance_manifest(), outputs())
    assert len(list(predictor.stream(os.fspath(tmp_path / "[12].png")))) == 2
    assert len(list(predictor.stream(tmp_path / "0.png"))) == 1
    (tmp_path / "0.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"0\.png is empty"):
        list(predictor.stream(tmp_path / "0.png"))


def test_a_video_gives_its_frames(tmp_path):
    path = os.fspath(tmp_path / "video.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10, (128, 96))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no MJPG")
    for _ in range(5):
        writer.write(PICTURE)
    writer.release()
    frames = [
        frame for frame, _ in fake_predictor(instance_manifest(), outputs()).stream_frames(path)
    ]
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert frames[2].name.endswith("video.avi#2")
    assert frames[0].image.shape == (96, 128, 3)


def test_a_stream_ends_after_the_current_frame_when_asked(tmp_path):
    write_pictures(tmp_path)
    stop = threading.Event()
    predictor = fake_predictor(instance_manifest(), outputs())
    results = predictor.stream(tmp_path, stop=stop)
    assert len(next(results)) == 2
    stop.set()
    assert list(results) == []


def test_a_source_of_nothing_is_refused_at_once(tmp_path):
    predictor = fake_predictor(instance_manifest(), outputs())
    with pytest.raises(SourceError, match="holds no pictures; expected files in one of"):
        predictor.stream_frames(tmp_path)
    with pytest.raises(SourceError, match="does not exist; expected a picture, a folder"):
        predictor.stream_frames(tmp_path / "gone.mp4")
    (tmp_path / "video.mp4").write_bytes(b"no video")
    with pytest.raises(SourceError, match=r"the video .*video\.mp4 cannot be opened"):
        list(predictor.stream_frames(tmp_path / "video.mp4"))


# ---------------------------------------------------------------- the package


def test_the_drawn_tree_of_errors_is_the_real_one():
    """Every class, its parent and its exit code stand in the text that opens errors.py."""
    drawn = {}
    stack = {}
    for line in errors.__doc__.splitlines():
        match = re.match(r"    ([| ]*)(?:\+-- )?([A-Z]\w+)(?: +exit code (\d))?(?: |$)", line)
        if not match or match[2] not in errors.__all__:
            continue
        depth = (line.index(match[2]) - 4) // 4
        stack[depth] = match[2]
        parent = stack[depth - 1] if depth else "Exception"
        code = int(match[3]) if match[3] else drawn[parent][1]
        drawn[match[2]] = (parent, code)
    real = {
        name: (kind.__base__.__name__, kind.exit_code)
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, EdgesegError)
    }
    assert drawn == real
    assert sorted(errors.__all__) == sorted(real)


def test_importing_the_runtime_loads_no_engine():
    code = (
        "import sys, edgeseg_runtime;"
        "print([name for name in ('torch', 'onnx', 'onnxruntime', 'tensorrt', 'typer', 'rich', 'PIL',"
        " 'supervision', 'edgeseg') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ast.literal_eval(done.stdout) == []
