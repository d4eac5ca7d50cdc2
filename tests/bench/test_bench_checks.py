"""Built-in pictures for checks: the model's input is full of what it looks for."""

import itertools

import numpy as np
import pytest
from fake_model import instance_manifest, task_manifest

from edgeseg_bench.checks import check_pictures, mosaic
from edgeseg_bench.datasets import open_dataset
from edgeseg_runtime.picture.geometry import fit_image, geometry_of


def numbered(height, width):
    """Return pictures whose grey level is their number."""
    return (np.full((height, width, 3), number, np.uint8) for number in itertools.count(1))


@pytest.mark.parametrize(
    ("size", "cells", "layout"),
    [
        ((100, 100), 1, [[1]]),
        ((100, 100), 2, [[1, 2], [3, 4]]),
        ((100, 210), 1, [[1, 2]]),
        ((210, 100), 1, [[1], [2]]),
        ((100, 130), 1, [[1]]),
        ((1, 1), 1, [[1]]),
    ],
    ids=["one", "four", "wide", "high", "nearly square", "a pixel"],
)
@pytest.mark.parametrize("drawn", [(50, 70), (300, 200)], ids=["enlarged", "shrunk"])
def test_pictures_stand_side_by_side_without_a_gap(size, cells, layout, drawn):
    picture = mosaic(numbered(*drawn), size, cells)
    assert picture.shape == (*size, 3)
    rows, columns = np.shape(layout)
    centres = np.ix_(
        *((np.arange(n) + 0.5) * side / n for n, side in zip((rows, columns), size, strict=True))
    )
    assert picture[..., 0][tuple(c.astype(int) for c in centres)].tolist() == layout
    assert set(np.unique(picture)) == set(np.ravel(layout))


@pytest.mark.parametrize(
    ("rule", "least"),
    [
        ({"resize": "original"}, 1.0),
        ({"resize": "letterbox"}, 1.0),
        ({"resize": "stretch"}, 1.0),
        ({"resize": "affine"}, 1.0),
        ({"resize": "center"}, 1.0),
        ({"resize": "shortest_edge", "min_size": 300, "max_size": 600}, 1.0),
        ({"resize": "shortest_edge", "min_size": 300, "max_size": 595}, 0.98),
    ],
    ids=lambda value: value.get("resize") if isinstance(value, dict) else None,
)
def test_the_model_s_input_is_full(rule, least):
    size = (300, 600)
    manifest = instance_manifest(size=size, preprocess={"min_size": None, **rule})
    pictures, name = check_pictures(manifest, 4)
    assert name == "shapes:val"
    for picture in pictures:
        geometry = geometry_of(picture.shape[:2], manifest.preprocess)
        (seen,) = fit_image(np.full_like(picture, 255), geometry, manifest.preprocess)
        assert (seen == 255).mean() >= least
    assert len({picture.tobytes() for picture in pictures}) == 4


@pytest.mark.parametrize(
    ("size", "rows"), [((640, 640), (1, 2, 3, 1)), ((256, 256), (1, 2, 1, 2)), ((96, 96), (1,) * 4)]
)
def test_objects_of_several_sizes_are_shown_by_turns(size, rows):
    manifest = instance_manifest(size=size, preprocess={"resize": "original", "min_size": None})
    drawn = (sample.image for sample in open_dataset("shapes"))
    for picture, expected in zip(check_pictures(manifest, 4)[0], rows, strict=True):
        np.testing.assert_array_equal(picture, mosaic(drawn, size, expected))


def test_a_model_of_one_object_gets_the_squares_about_them():
    manifest = task_manifest("landmarks", {"points": (5, 2), "scores": (5,)})
    for picture in check_pictures(manifest, 3)[0]:
        assert picture.shape[0] == picture.shape[1]
