"""Correlation: PyTorch against its formula written as loops, ONNX against PyTorch."""

import warnings

import numpy as np
import pytest
import torch

from edgeseg.ops import correlation
from edgeseg_export.functions import add_functions
from edgeseg_export.functions.correlation import TILE, correlation_function

SETTINGS = [
    pytest.param((5, 7), {"radius": 1, "step": 1}, id="nearest"),
    pytest.param((6, 9), {"radius": 4, "step": 1}, id="9x9"),
    pytest.param((7, 13), {"radius": 3, "step": 2}, id="every-second"),
    pytest.param((3, 2), {"radius": 5, "step": 3}, id="beyond-the-map"),
    pytest.param((4, 2 * TILE + 5), {"radius": 2, "step": 1}, id="three-tiles"),
    pytest.param((4, 4 * TILE), {"radius": 2, "step": 2}, id="whole-tiles"),
]


def draw(seed, size, channels=5):
    rng = np.random.default_rng(seed)
    shape = (1 + seed % 2, channels, *size)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(2)]


def by_the_formula(first, second, *, radius, step):
    """float64, one shift and one cell after the other."""
    pictures, _, height, width = first.shape
    count = 2 * radius + 1
    found = np.zeros((pictures, count, count, height, width))
    for n, i, j, y, x in np.ndindex(*found.shape):
        row, column = y + (i - radius) * step, x + (j - radius) * step
        if 0 <= row < height and 0 <= column < width:
            products = first[n, :, y, x].astype(np.float64) * second[n, :, row, column]
            found[n, i, j, y, x] = products.mean()
    return found.reshape(pictures, count**2, height, width)


@pytest.mark.parametrize(("size", "setting"), SETTINGS[:4])
def test_pytorch_follows_the_formula(size, setting):
    first, second = draw(1, size)
    found = correlation(torch.from_numpy(first), torch.from_numpy(second), **setting)
    np.testing.assert_allclose(found, by_the_formula(first, second, **setting), rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("size", "setting"), SETTINGS)
def test_onnx_agrees_with_pytorch(size, setting, seed, run_onnx):
    first, second = draw(seed, size)
    (found,) = run_onnx("Correlation", [first, second], **setting)
    expected = correlation(torch.from_numpy(first), torch.from_numpy(second), **setting)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_half_maps_are_compared_in_float32(run_onnx):
    first, second = (10 * array.astype(np.float16) for array in draw(0, (6, 40), channels=64))
    (found,) = run_onnx("Correlation", [first, second], radius=2, step=1)
    expected = by_the_formula(first, second, radius=2, step=1)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_the_body_grows_with_the_rows_of_shifts_and_not_with_the_shifts():
    sizes = [
        len(correlation_function("f", (8, 64), 16, radius=radius, step=2).node)
        for radius in (5, 10)
    ]
    assert sizes[1] < 2 * sizes[0]
    assert sizes[1] < 441


class FlowNetLike(torch.nn.Module):
    """Both correlations of VPSNet."""

    def forward(self, first, second):
        return correlation(first, second, radius=10, step=2), correlation(first, second, radius=4)


def export():
    maps = tuple(torch.from_numpy(array) for array in draw(0, (16, 40), channels=32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            FlowNetLike(), maps, dynamo=True, opset_version=20, verbose=False
        )
    return add_functions(program.model_proto), maps


def test_an_exported_correlation_is_one_node(run_model):
    model, maps = export()
    assert [node.op_type for node in model.graph.node] == [
        "Correlation_32x16x40",
        "Correlation_32x16x40_2",
    ]
    for found, expected in zip(
        run_model(model, [array.numpy() for array in maps]), FlowNetLike()(*maps), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_tensorrt_rtx_compiles_it(compile_rtx):
    assert compile_rtx(export()[0], "SM86", "SM89", "SM120")


@pytest.mark.parametrize(
    ("shapes", "setting", "message"),
    [
        (((1, 2, 3, 4), (1, 2, 3, 5)), {"radius": 1}, r"second \(1, 2, 3, 5\): expected"),
        (((1, 2, 3, 4),) * 2, {"radius": 0}, "radius is 0, step 1: expected at least 1"),
        (((1, 2, 3, 4),) * 2, {"radius": 1, "step": 0}, "step 0: expected at least 1"),
        (((1, 2, 3, 4),) * 2, {"radius": 32}, "no more than 4096 shifts"),
    ],
    ids=["shapes", "radius", "step", "too-many"],
)
def test_bad_arguments_are_refused(shapes, setting, message):
    first, second = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        correlation(first, second, **setting)
