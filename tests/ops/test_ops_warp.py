"""Moving a map along a flow: PyTorch against the originals' rules written as loops, ONNX against PyTorch."""

import numpy as np
import pytest
import torch

from edgeseg.ops import warp

SETTINGS = [
    pytest.param({"outside": "zeros", "spacing": "cells"}, id="zeros"),
    pytest.param({"outside": "border", "spacing": "cells"}, id="flownet2"),
    pytest.param({"outside": "zeros", "spacing": "stretched"}, id="vpsnet"),
]


def draw(seed):
    """A map, and a flow with short and far steps, some of whole cells, some to the last cells."""
    rng = np.random.default_rng(seed)
    pictures, channels, height, width = 1 + seed % 2, 3, *rng.integers(2, 12, 2)
    flow = rng.normal(size=(pictures, 2, height, width)) * rng.choice([0.4, 3, 40])
    flow = np.where(rng.random(flow.shape) < 0.3, np.round(flow), flow)
    map_ = rng.normal(size=(pictures, channels, height, width))
    return map_.astype(np.float32), flow.astype(np.float32)


def by_the_rule(map_, flow, *, outside, spacing):
    """float64; of the four neighbours those outside are 0, or each is clamped into the map by itself."""
    pictures, _, height, width = map_.shape
    found = np.zeros(map_.shape)
    for n, y, x in np.ndindex(pictures, height, width):
        position = np.array([y, x]) + flow[n, ::-1, y, x].astype(np.float64)
        if spacing == "stretched":
            position = position * [height / (height - 1), width / (width - 1)] - 0.5
        corner = np.floor(position).astype(int)
        for i, j in np.ndindex(2, 2):
            row, column = corner + np.array([i, j])
            weight = np.prod(1 - np.abs(position - [row, column]))
            if outside == "border":
                row, column = np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)
            elif not (0 <= row < height and 0 <= column < width):
                continue
            found[n, :, y, x] += weight * map_[n, :, row, column]
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("setting", SETTINGS)
def test_both_follow_the_rule(setting, seed, run_onnx):
    map_, flow = draw(seed)
    expected = by_the_rule(map_, flow, **setting)
    found = warp(torch.from_numpy(map_), torch.from_numpy(flow), **setting)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5)
    (onnx,) = run_onnx("Warp", [map_, flow], **setting)
    np.testing.assert_allclose(onnx, found, rtol=0, atol=3e-5)


def test_a_flow_of_nothing_keeps_a_map_unless_it_is_stretched():
    map_ = torch.from_numpy(draw(0)[0])
    flow = torch.zeros(len(map_), 2, *map_.shape[2:])
    np.testing.assert_allclose(warp(map_, flow), map_, rtol=0, atol=1e-5)
    assert (warp(map_, flow, spacing="stretched") - map_).abs().max() > 0.1


@pytest.mark.parametrize("far", [np.inf, -np.inf, 1e30])
def test_what_is_far_outside_is_zero_or_the_border(far, run_onnx):
    map_, flow = draw(1)
    flow[:] = far
    (found,) = run_onnx("Warp", [map_, flow], outside="zeros", spacing="cells")
    assert (found == 0).all()
    (found,) = run_onnx("Warp", [map_, flow], outside="border", spacing="cells")
    corner = map_[:, :, -1:, -1:] if far > 0 else map_[:, :, :1, :1]
    np.testing.assert_allclose(found, np.broadcast_to(corner, found.shape), rtol=1e-4)


def test_half_maps_move_along_a_flow_of_float32(run_onnx):
    map_, flow = draw(2)
    (found,) = run_onnx("Warp", [map_.astype(np.float16), flow], outside="border", spacing="cells")
    expected = by_the_rule(map_, flow, outside="border", spacing="cells")
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("shapes", "setting", "message"),
    [
        (((1, 2, 3, 4), (1, 2, 4, 3)), {}, r"flow \(1, 2, 4, 3\): expected"),
        (((1, 2, 3, 4), (1, 2, 3, 4)), {"outside": "wrap"}, "outside is 'wrap', expected one of"),
        (((1, 2, 3, 4), (1, 2, 3, 4)), {"spacing": "x"}, "spacing is 'x', expected one of"),
        (((1, 2, 1, 4), (1, 2, 1, 4)), {"spacing": "stretched"}, "at least 2 cells"),
    ],
    ids=["shapes", "outside", "spacing", "one-row"],
)
def test_bad_arguments_are_refused(shapes, setting, message):
    with pytest.raises(ValueError, match=message):
        warp(*(torch.zeros(shape) for shape in shapes), **setting)
