"""Batches: several pictures in one run give what each gives alone, in every size and number."""

import dataclasses

import cv2
import numpy as np
import pytest
from fake_model import fake_predictor, instance_manifest, instance_outputs
from stateful_bundle import K, pictures, write_stateful_bundle

from edgeseg_runtime import Probe, Source, load
from edgeseg_runtime.__main__ import main
from edgeseg_runtime.errors import BrokenSource, ImageError
from edgeseg_runtime.streaming import _collected

ENGINES = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("batched")
    write_stateful_bundle(place, "batched")
    return place


@pytest.fixture(params=ENGINES, scope="module")
def predictor(request, folder):
    pytest.importorskip(request.param)
    with load(folder, backend=request.param, threads=1) as opened:
        yield opened


class Runs(Probe):
    def __init__(self):
        self.sizes = []

    def ran(self, graph, inputs, outputs, rows):
        self.sizes.append((graph, len(next(iter(outputs.values()))), rows))


def of_levels(*levels):
    """Pictures of different sizes in which so many of K things are found."""
    sizes = [(32, 48), (20, 70), (90, 31), (32, 48)]
    pairs = zip(levels, sizes * len(levels), strict=False)
    return [np.full((*size, 3), round(255 * (n + 0.4) / K), np.uint8) for n, size in pairs]


def assert_same(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert (one.image_size, one.backend) == (other.image_size, other.backend)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-4)
        np.testing.assert_array_equal(one.masks, other.masks)


@pytest.mark.parametrize(
    "images",
    [[], of_levels(2), of_levels(2, 0, 5, 1), of_levels(0, 0), pictures(7, size=(50, 41))],
    ids=["none", "one", "of several sizes", "nothing found", "seven"],
)
def test_a_batch_gives_what_single_pictures_give(predictor, images):
    alone = [predictor(image) for image in images]
    assert_same(predictor.batch(images), alone)
    assert_same(predictor.batch(iter(images)), alone)


@pytest.mark.parametrize(("batch", "sizes"), [(2, [2, 2, 1]), (5, [5]), (8, [5])])
def test_a_stream_runs_batches_of_the_size_that_is_asked_for(predictor, tmp_path, batch, sizes):
    images = of_levels(1, 3, 0, 2, 2)
    for number, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    runs = Runs()
    pairs = list(predictor.stream_frames(tmp_path, batch=batch, probe=runs))
    assert [frame.index for frame, _ in pairs] == [0, 1, 2, 3, 4]
    assert_same([found for _, found in pairs], [predictor(image) for image in images])
    assert [size for graph, size, _ in runs.sizes if graph == "detect"] == sizes
    assert len(list(predictor.stream(tmp_path, batch=batch))) == 5


def test_the_fullest_picture_of_a_batch_decides_how_many_rows_run(predictor, tmp_path):
    for number, image in enumerate(of_levels(1, 4, 2)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    runs = Runs()
    list(predictor.stream_frames(tmp_path, batch=3, probe=runs))
    assert runs.sizes == [("detect", 3, None), ("mask", 3, 5)]


def test_a_picture_of_another_layout_is_refused(predictor):
    with pytest.raises(ImageError, match="COLOR_GRAY2BGR"):
        predictor.batch([*of_levels(1), np.zeros((8, 8), np.uint8)])


def test_an_engine_of_a_fixed_batch_is_filled_up_and_runs_several_times():
    manifest = instance_manifest()
    outputs = instance_outputs(
        boxes=[[1, 1, 9, 9]] * 3, scores=[0.9, 0.8, 0.7], labels=[1, 1, 1], masks=np.ones((3, 8, 8))
    )
    predictor = fake_predictor(free(manifest), {k: v.repeat(4, axis=0) for k, v in outputs.items()})
    predictor.backend.backend.batch_size = 4
    image = np.zeros((48, 64, 3), np.uint8)
    found = predictor.batch([image] * 6)
    assert [len(one) for one in found] == [3] * 6
    assert predictor.backend.backend.num_runs == 2


def free(manifest):
    def freed(specs):
        return tuple(dataclasses.replace(spec, shape=(-1, *spec.shape[1:])) for spec in specs)

    graphs = {
        name: dataclasses.replace(graph, inputs=freed(graph.inputs), outputs=freed(graph.outputs))
        for name, graph in manifest.graphs.items()
    }
    return dataclasses.replace(manifest, graphs=graphs)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "staged",
            "staged takes one picture at a time: its batch axis is not free. Export it with",
        ),
        ("key_step", "key_step is a model of videos, in which a frame follows the one before"),
        ("seed_main", "seed_main is a model of videos"),
    ],
)
def test_a_model_that_takes_no_batch_says_why(tmp_path, kind, message):
    write_stateful_bundle(tmp_path / kind, kind)
    with load(tmp_path / kind, backend="onnxruntime", threads=1) as predictor:
        with pytest.raises(ValueError, match=message):
            predictor.batch(pictures(2))
        with pytest.raises(ValueError, match=message):
            predictor.stream_frames(tmp_path, batch=2)


def test_what_no_batch_can_be_made_of_is_refused(predictor):
    with pytest.raises(ValueError, match="batch is 2, and 0 is a camera or network stream"):
        predictor.stream_frames(Source(0), batch=2)
    with pytest.raises(ValueError, match="batch is 0; expected at least 1"):
        predictor.stream_frames(Source(0), batch=0)
    with pytest.raises(
        ValueError, match="batch is 2 and scene_cut 25: models with key frames take"
    ):
        predictor.stream_frames(Source(0), batch=2, scene_cut=25)


def test_what_is_left_before_the_end_or_an_error_is_a_batch_too():
    assert list(_collected(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(_collected([], 2)) == []

    def breaks():
        yield from range(3)
        raise BrokenSource("gone")

    found = _collected(breaks(), 2)
    assert [next(found), next(found)] == [[0, 1], [2]]
    with pytest.raises(BrokenSource, match="gone"):
        next(found)


def test_run_computes_batches(folder, tmp_path):
    for number, image in enumerate(of_levels(1, 3, 0, 2, 2)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    pattern, common = str(tmp_path / "*.png"), ("--score", "0", "-q")
    written = []
    for batch in (1, 2):
        out = tmp_path / str(batch)
        assert (
            main(["run", str(folder), pattern, "-o", str(out), "--batch", str(batch), *common]) == 0
        )
        written.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert written[0].keys() == written[1].keys()
    assert written[0]["0.jpg"] == written[1]["0.jpg"]
