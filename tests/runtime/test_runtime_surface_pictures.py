"""Surfaces as pictures: drawn, as IUV, and as textures that are taken from one picture and put into another."""

import cv2
import numpy as np
import pytest

from edgeseg_runtime.results import Instances
from edgeseg_runtime.results.draw_surfaces import SURFACE_STYLES, draw_surface
from edgeseg_runtime.results.surfaces import Surface, SurfaceMaps, SurfaceSet
from edgeseg_runtime.results.texture import Texture, picture_from_texture, texture_from_picture

SIZE = (50, 70)


def ramp(height=30, width=40, *, part=3, left=5, top=6):
    """A part that u runs across, and v down; the first column is background."""
    u, v = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    parts = np.full((height, width), part, np.uint8)
    parts[:, 0] = u[:, 0] = v[:, 0] = 0
    return Surface(left, top, parts, u.astype(np.float32), v.astype(np.float32))


def flat(part, boxes, scores):
    """Persons of one part each: the maps say the same everywhere."""
    count = len(boxes)
    fine = np.zeros((count, 25, 4, 4), np.float32)
    fine[np.arange(count), part] = 1
    coarse = np.zeros((count, 2, 4, 4), np.float32)
    coarse[:, 1] = 1
    half = np.full((count, 25, 4, 4), 0.5, np.float32)
    maps = SurfaceMaps(np.float32(boxes), coarse=coarse, fine=fine, u=half, v=half * 2)
    return Instances(
        boxes,
        scores,
        np.zeros(count, int),
        surfaces=SurfaceSet(maps, np.arange(count)),
        image_size=SIZE,
    )


OVERLAPPING = flat([2, 7], [[0, 0, 20, 20], [10, 10, 40, 30]], [0.6, 0.9])


def test_where_persons_overlap_the_better_one_is_in_the_iuv():
    iuv = OVERLAPPING.iuv()
    assert iuv.shape == (*SIZE, 3)
    assert iuv[5, 5].tolist() == [2, 127, 255]
    assert iuv[15, 15, 0] == iuv[25, 35, 0] == 7
    assert (iuv[30:] == 0).all()
    decoded = cv2.imdecode(np.frombuffer(OVERLAPPING.iuv_png(), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded[..., ::-1], iuv)


def test_a_result_without_surfaces_has_no_iuv():
    with pytest.raises(ValueError, match="there are no surfaces; expected those of a model such"):
        Instances.empty(image_size=SIZE).iuv()
    with pytest.raises(ValueError, match="the size of the picture is unknown; give image_size"):
        OVERLAPPING.replace(image_size=None).iuv_png()


@pytest.mark.parametrize("style", SURFACE_STYLES)
def test_every_style_draws_inside_of_the_person_alone(style):
    picture = np.full((*SIZE, 3), 90, np.uint8)
    drawn = OVERLAPPING.draw(picture, surfaces=style)
    plain = OVERLAPPING.replace(surfaces=None).draw(picture)
    differs = (drawn != plain).any(axis=-1)
    assert not differs[OVERLAPPING.iuv()[..., 0] == 0].any()
    assert differs.any() == (style != "contours")  # u and v are the same everywhere


def test_parts_differ_in_colour_and_not_by_person():
    picture = np.full((*SIZE, 3), 90, np.uint8)
    first, second = (flat([part], [[0, 0, 20, 20]], [0.9]).draw(picture)[18, 18] for part in (2, 7))
    assert (first != second).any()
    again = flat([2], [[10, 10, 40, 30]], [0.1]).draw(picture)[28, 38]
    np.testing.assert_array_equal(first, again)


def test_contours_are_lines_of_equal_u_and_equal_v():
    canvas = np.zeros((*SIZE, 3), np.uint8)
    surface = ramp()
    draw_surface(canvas, surface, "contours")
    is_line = canvas[6:36, 5:45].any(axis=-1)
    assert is_line.all(axis=0).sum() == 7  # columns: between eight bands of u
    assert is_line[:, 1:].all(axis=1).sum() == 7
    assert not is_line[:, 0].any()


def test_a_style_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="surfaces is 'dots'; expected one of parts, u, v, cont"):
        OVERLAPPING.draw(np.zeros((*SIZE, 3), np.uint8), surfaces="dots")


def test_a_texture_has_u_to_the_right_and_v_upwards():
    picture = np.zeros((*SIZE, 3), np.uint8)
    picture[6:36, 5:45, 0] = np.linspace(0, 255, 40)  # blue grows with u
    picture[6:36, 5:45, 2] = np.linspace(0, 255, 30)[:, None]  # red grows with v
    texture = texture_from_picture(picture, ramp(), side=8)
    assert texture.tiles.shape == (24, 8, 8, 3)
    assert texture.is_seen[2].all()
    assert not np.delete(texture.is_seen, 2, axis=0).any()
    blue, _, red = np.moveaxis(texture.tiles[2].astype(int), -1, 0)
    assert (np.diff(blue, axis=1) > 0).all()
    assert (np.diff(red, axis=0) < 0).all()
    assert np.ptp(blue, axis=0).max() <= 1


def test_a_person_wears_the_texture_that_was_taken_from_it():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (5, 5, 3)).astype(np.uint8)
    picture = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_LINEAR)
    surface = ramp()
    texture = texture_from_picture(picture, surface, side=100)
    again = picture_from_texture(np.zeros_like(picture), surface, texture)
    is_person = np.zeros(SIZE, bool)
    is_person[6:36, 6:45] = True
    np.testing.assert_array_equal(again[is_person], picture[is_person])
    assert (again[~is_person] == 0).all()
    other = ramp(20, 20, left=30, top=10)
    worn = picture_from_texture(picture, other, texture_from_picture(picture, surface, side=4))
    assert (worn[10:30, 31:50] != picture[10:30, 31:50]).any()


def test_parts_without_a_texture_stay_as_they_are():
    picture = np.full((*SIZE, 3), 90, np.uint8)
    texture = texture_from_picture(np.zeros_like(picture), ramp(part=3), side=8)
    np.testing.assert_array_equal(picture_from_texture(picture, ramp(part=4), texture), picture)
    few = texture_from_picture(np.zeros_like(picture), ramp(part=1), side=8, num_parts=2)
    np.testing.assert_array_equal(picture_from_texture(picture, ramp(part=3), few), picture)


def test_an_atlas_is_filled_column_by_column():
    tiles = np.zeros((24, 4, 4, 3), np.uint8)
    tiles += np.arange(1, 25, dtype=np.uint8)[:, None, None, None]
    texture = Texture(tiles, np.ones((24, 4, 4), bool))
    atlas = texture.atlas()
    assert atlas.shape == (24, 16, 3)
    assert atlas[::4, 0, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert atlas[0, ::4, 0].tolist() == [1, 7, 13, 19]
    np.testing.assert_array_equal(Texture.from_atlas(atlas).tiles, tiles)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Texture(np.zeros((1, 4, 5, 3), np.uint8), np.ones((1, 4, 5), bool)), "expected uint8 "),
        (lambda: Texture(np.zeros((1, 4, 4, 3), np.uint8), np.ones((1, 4), bool)), "expected bool "),
        (lambda: Texture.from_atlas(np.zeros((13, 4, 3), np.uint8)), "the atlas is 13x4; expected 6"),
        (lambda: texture_from_picture(np.zeros((4, 4, 3), np.uint8), [], side=0), "side 0, num_par"),
    ],
    ids=["oblong tiles", "seen of another shape", "an atlas of other rows", "no texels"],
)  # fmt: skip
def test_what_is_no_texture_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
