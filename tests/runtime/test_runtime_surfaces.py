"""Surfaces: from a network's maps over a box to parts, u and v over the pixels of a picture."""

import base64
import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
from fake_model import fake_predictor, task_manifest

from edgeseg_runtime.errors import ManifestError
from edgeseg_runtime.results import Instances
from edgeseg_runtime.results.paste import MaskCrop
from edgeseg_runtime.results.rle import rle_from_crop
from edgeseg_runtime.results.surfaces import CONFIDENCES, Surface, SurfaceMaps, SurfaceSet
from edgeseg_runtime.tasks import create_task

BOXES = np.float32([[3.7, 2.2, 23.9, 13.1], [0.0, 0.0, 0.4, 0.9], [30.0, 10.0, 60.0, 40.0]])
NUM_CHARTS, SIDE = 5, 8
SIZE = (40, 60)
PICTURE = np.full((*SIZE, 3), 50, np.uint8)
SHAPES = {
    "boxes": (4, 4),
    "scores": (4,),
    "labels": (4,),
    "surface_coarse": (2, 2, SIDE, SIDE),
    "surface_fine": (2, NUM_CHARTS, SIDE, SIDE),
    "surface_u": (2, NUM_CHARTS, SIDE, SIDE),
    "surface_v": (2, NUM_CHARTS, SIDE, SIDE),
}


def maps(count=3, *, confidences=(), coarse=2, seed=0):
    rng = np.random.default_rng(seed)

    def draw(channels):
        return rng.normal(0, 1, (count, channels, SIDE, SIDE)).astype(np.float32)

    charts = {name: draw(NUM_CHARTS) for name in ("fine", "u", "v")}
    given = {name: draw(1 if name.endswith("confidence") else NUM_CHARTS) for name in confidences}
    return SurfaceMaps(BOXES[:count], coarse=draw(coarse), **charts, confidences=given)


def with_all_confidences():
    return maps(1, confidences=CONFIDENCES)


def bilinear(channel, size):
    """Half-pixel centres, the border repeated, in double precision."""
    for axis, length in enumerate(size):
        cells = channel.shape[axis]
        position = np.clip((np.arange(length) + 0.5) * cells / length - 0.5, 0, cells - 1)
        low = np.floor(position).astype(int)
        high = np.minimum(low + 1, cells - 1)
        share = (position - low).reshape([-1, 1] if axis == 0 else [1, -1])
        channel = channel.take(low, axis) * (1 - share) + channel.take(high, axis) * share
    return channel


def by_hand(given, index, size):
    """The rule of the original, channel by channel."""

    def read(array, weight=None):
        doubled = [
            bilinear(channel, (2 * SIDE, 2 * SIDE)) for channel in array[index].astype(float)
        ]
        return np.stack([bilinear(x if weight is None else x * weight, size) for x in doubled])

    def weight(name):
        if name not in given.confidences:
            return None
        raw = given.confidences[name][index, 0].astype(float)
        return np.log1p(np.exp(bilinear(raw, (2 * SIDE, 2 * SIDE)))) + 0.01

    parts = read(given.fine, weight("fine_confidence")).argmax(0)
    parts[read(given.coarse, weight("coarse_confidence")).argmax(0) == 0] = 0
    chosen = {"u": given.u, "v": given.v}
    chosen |= {k: v for k, v in given.confidences.items() if v.shape[1] > 1}
    found = {
        name: np.where(parts > 0, np.take_along_axis(read(array), parts[None], 0)[0], 0)
        for name, array in chosen.items()
    }
    found |= {
        name: bilinear(weight(name), size)
        for name, array in given.confidences.items()
        if array.shape[1] == 1
    }
    return parts, found


@pytest.mark.parametrize(
    ("given", "index"),
    [
        (maps(), 0),
        (maps(), 2),
        (maps(coarse=15), 2),
        (with_all_confidences(), 0),
    ],
    ids=["shrunk", "enlarged", "15 coarse channels", "confidences"],
)
def test_parts_are_chosen_after_the_resize_and_u_and_v_by_the_part(given, index):
    surface = given.surface(index)
    parts, expected = by_hand(given, index, surface.parts.shape)
    assert set(np.unique(parts)) == set(range(NUM_CHARTS))
    is_same = surface.parts == parts
    assert is_same.mean() > 0.995
    found = {"u": surface.u, "v": surface.v, **surface.confidences}
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_allclose(values[is_same], expected[name][is_same], atol=1e-4)


def test_a_box_is_truncated_as_the_original_does():
    """Its width and height are truncated, not its right and lower end; both are 1 at least."""
    boxes = [surface.box_xywh for surface in SurfaceSet(maps(), [0, 1, 2])]
    assert boxes == [(3, 2, 20, 10), (0, 0, 1, 1), (30, 10, 30, 30)]


def test_numbers_that_are_none_spoil_no_other_pixel():
    given = maps(1)
    whole = given.surface(0)
    fine = given.fine.copy()
    fine[0, :, 0, 0] = np.nan
    spoilt = replace(given, fine=fine).surface(0)
    assert np.isfinite(spoilt.u).all()
    np.testing.assert_array_equal(spoilt.parts[5:, 8:], whole.parts[5:, 8:])


def surface(parts=((0, 3), (24, 1)), u=((0, 0.5), (1.2, 1)), v=((0, -0.1), (0.999, 0.2))):
    return Surface(4, 2, np.uint8(parts), np.float32(u), np.float32(v))


def test_bytes_are_clipped_and_truncated():
    np.testing.assert_array_equal(
        surface().iuv(), [[[0, 3], [24, 1]], [[0, 127], [255, 255]], [[0, 0], [254, 51]]]
    )


def test_the_png_is_red_for_parts_green_for_u_and_blue_for_v():
    decoded = cv2.imdecode(np.frombuffer(surface().png(), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(np.moveaxis(decoded[..., ::-1], -1, 0), surface().iuv())


def instances(rows=(0, -1, 1)):
    count = len(rows)
    return Instances(
        BOXES[:count],
        np.linspace(0.9, 0.5, count),
        np.zeros(count, int),
        surfaces=SurfaceSet(maps(2), rows),
        image_size=SIZE,
    )


def test_a_record_holds_what_detectron2_compresses_and_the_mask():
    found = instances()
    record, without, _ = found.to_coco(7)
    first = found.surfaces.surface(0)
    assert record["densepose"]["shape_chw"] == [3, 10, 20]
    png = base64.decodebytes(record["densepose"]["labels_uv_str"].encode())
    decoded = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(np.moveaxis(decoded, -1, 0), first.iuv())
    assert record["segmentation"] == {"size": [*SIZE], "counts": rle_from_crop(first.mask, SIZE)}
    nothing = MaskCrop(0, 0, np.zeros((0, 0), bool))
    assert "densepose" not in without
    assert without["segmentation"]["counts"] == rle_from_crop(nothing, SIZE)


def test_a_selection_has_the_surfaces_of_its_rows_and_computes_none_twice():
    found = instances()
    assert found.num_without_surface == 1
    assert "1 without surface" in repr(found)
    best = found[[2, 0]]
    assert best.num_without_surface == 0
    assert best.surfaces.surface(0) is found.surfaces.surface(2)
    assert found.filter(score=0.8).num_without_surface == 0
    found.materialize()


def test_surfaces_survive_being_sent_to_another_process():
    found = instances()
    again = pickle.loads(pickle.dumps(found))
    for ours, theirs in zip(found.surfaces, again.surfaces, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_array_equal(ours.iuv(), theirs.iuv())
            assert not theirs.parts.flags.writeable


def test_surfaces_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"surfaces are 2; expected 3, one for each row"):
        instances().replace(surfaces=SurfaceSet(maps(2), [0, 1]))
    with pytest.raises(ValueError, match=r"rows are \[0, 2\]; expected numbers of maps, up to 1"):
        SurfaceSet(maps(2), [0, 2])


# ---------------------------------------------------------------- from the network's outputs


def outputs(num_surfaces=2):
    given = maps(num_surfaces)
    boxes = np.float32([[4, 4, 24, 20], [10, 0, 30, 20], [0, 0, 20, 20], [0, 0, 0, 0]])
    values = {
        "boxes": boxes,
        "scores": np.float32([0.9, 0.8, 0.7, 0]),
        "labels": np.zeros(4, np.int32),
        **{f"surface_{name}": getattr(given, name) for name in ("coarse", "fine", "u", "v")},
    }
    return {name: value[None] for name, value in values.items()}


def manifest(shapes):
    preprocess = {"resize": "stretch", "rounding": "floor"}
    return task_manifest("instances", shapes, size=SIZE, preprocess=preprocess)


def test_the_best_detections_have_the_surfaces_and_the_result_counts_the_others():
    found = fake_predictor(manifest(SHAPES), outputs())(PICTURE)
    assert len(found) == 3
    assert found.num_without_surface == 1
    assert [s is not None for s in found.surfaces] == [True, True, False]
    assert found.surfaces.surface(1).box_xywh == (10, 0, 20, 20)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"surface_coarse": (2, 1, SIDE, SIDE)}, "expected 2 channels at least, the background"),
        ({"surface_u": (2, 4, SIDE, SIDE)}, r"surface_u .* expected \[1, 2, 5, 8, 8\]"),
        ({name: (5, *SHAPES[name][1:]) for name in SHAPES if "surf" in name}, "or fewer rows"),
        ({"surface_fine_confidence": (2, 5, SIDE, SIDE)}, r"expected \[1, 2, 1, 8, 8\]"),
    ],
    ids=["one coarse channel", "too few charts", "more surfaces than rows", "confidences of parts"],
)
def test_outputs_that_make_no_surface_are_refused(shapes, message):
    with pytest.raises(ManifestError, match=message):
        create_task(manifest({**SHAPES, **shapes}))


def test_a_surface_without_all_its_maps_is_refused():
    shapes = {name: shape for name, shape in SHAPES.items() if name != "surface_v"}
    with pytest.raises(ManifestError, match="expected surface_v among them"):
        create_task(manifest(shapes))
