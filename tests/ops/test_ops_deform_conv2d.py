"""Deformable convolution: PyTorch against its formula written as loops, ONNX against PyTorch."""

import itertools
import warnings

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from edgeseg.models.layers.deform import ModulatedDeformConv2d
from edgeseg.ops import deform_conv2d
from edgeseg_export.functions import add_functions
from edgeseg_export.functions.deform_conv2d import MAX_SAMPLES

SETTINGS = [
    pytest.param({"padding": 1}, id="3x3"),
    pytest.param({"padding": 1, "modulated": True}, id="3x3-modulated"),
    pytest.param({"padding": (0, 2), "kernel": (1, 4), "bias": False}, id="1x4"),
    pytest.param({"stride": (2, 1), "padding": 2, "dilation": (1, 2), "modulated": True}, id="dilated"),
    pytest.param({"groups": 2, "offset_groups": 3, "modulated": True, "bias": False}, id="groups"),
    pytest.param({"groups": 6, "offset_groups": 2, "stride": 2}, id="depthwise"),
    pytest.param({"kernel": (1, 1), "offset_groups": 6, "modulated": True}, id="1x1"),
]  # fmt: skip


def draw(seed, *, kernel=(3, 3), groups=1, offset_groups=1, modulated=False, bias=True, **settings):
    """Inputs of a call, as NumPy arrays, and its settings; offsets of all sizes, some of whole cells."""
    rng = np.random.default_rng(seed)
    pictures, channels, height, width = 1 + seed % 2, 6, *rng.integers(4, 9, 2)
    taps = kernel[0] * kernel[1]
    settings = {"stride": 1, "padding": 0, "dilation": 1} | settings
    stride, padding, dilation = (np.broadcast_to(value, 2) for value in settings.values())
    cells = np.array([height, width]) + 2 * padding - dilation * (np.array(kernel) - 1) - 1
    size = tuple(cells // stride + 1)
    offset = rng.normal(size=(pictures, 2 * offset_groups * taps, *size)) * rng.choice([0.3, 1, 9])
    offset = np.where(rng.random(offset.shape) < 0.2, np.round(offset), offset)
    inputs = {
        "x": rng.normal(size=(pictures, channels, height, width)),
        "offset": offset,
        "weight": rng.normal(size=(12, channels // groups, *kernel)),
        "bias": rng.normal(size=12) if bias else None,
        "mask": rng.random((pictures, offset_groups * taps, *size)) if modulated else None,
    }
    inputs = {
        name: None if value is None else value.astype(np.float32) for name, value in inputs.items()
    }
    return inputs, settings


def by_the_formula(inputs, *, stride, padding, dilation):
    """float64, one sample after the other."""
    x, offset, weight, bias, mask = inputs.values()
    stride, padding, dilation = (np.broadcast_to(v, 2) for v in (stride, padding, dilation))
    pictures, channels, height, width = x.shape
    out_channels, in_group, *kernel = weight.shape
    taps = kernel[0] * kernel[1]
    offset_groups = offset.shape[1] // (2 * taps)
    result = np.zeros((pictures, out_channels, *offset.shape[2:]))
    for n, a, b in np.ndindex(pictures, *offset.shape[2:]):
        column = np.zeros((channels, *kernel))
        for c, i, j in np.ndindex(*column.shape):
            tap = c // (channels // offset_groups) * taps + i * kernel[1] + j
            y = a * stride[0] - padding[0] + i * dilation[0] + float(offset[n, 2 * tap, a, b])
            z = b * stride[1] - padding[1] + j * dilation[1] + float(offset[n, 2 * tap + 1, a, b])
            top, left = int(np.floor(y)), int(np.floor(z))
            for row, cell in itertools.product((top, top + 1), (left, left + 1)):
                if 0 <= row < height and 0 <= cell < width:
                    column[c, i, j] += x[n, c, row, cell] * (1 - abs(y - row)) * (1 - abs(z - cell))
            if mask is not None:
                column[c, i, j] *= mask[n, tap, a, b]
        for o in range(out_channels):
            first = o // (out_channels * in_group // channels) * in_group
            result[n, o, a, b] = np.sum(weight[o] * column[first : first + in_group])
    return result if bias is None else result + bias[:, None, None]


def in_pytorch(inputs, **settings):
    tensors = {
        name: None if value is None else torch.from_numpy(value) for name, value in inputs.items()
    }
    return deform_conv2d(**tensors, **settings)


def node_attributes(inputs, settings):
    """What the exported node says."""
    pairs = {name: np.broadcast_to(value, 2).tolist() for name, value in settings.items()}
    taps = np.prod(inputs["weight"].shape[2:])
    groups = inputs["x"].shape[1] // inputs["weight"].shape[1]
    return pairs | {
        "groups": groups,
        "offset_groups": int(inputs["offset"].shape[1] // (2 * taps)),
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("setting", SETTINGS)
def test_pytorch_follows_the_formula(setting, seed):
    inputs, settings = draw(seed, **setting)
    np.testing.assert_allclose(
        in_pytorch(inputs, **settings), by_the_formula(inputs, **settings), rtol=0, atol=3e-5
    )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("setting", SETTINGS)
def test_onnx_agrees_with_pytorch(setting, seed, run_onnx):
    inputs, settings = draw(seed, **setting)
    (result,) = run_onnx("DeformConv2d", list(inputs.values()), **node_attributes(inputs, settings))
    np.testing.assert_allclose(result, in_pytorch(inputs, **settings), rtol=0, atol=3e-5)


@pytest.mark.parametrize("modulated", [False, True])
def test_a_large_map_is_computed_strip_by_strip(modulated, run_onnx):
    rng = np.random.default_rng(0)
    height, width = 64, 192
    assert 8 * 9 * height * width > MAX_SAMPLES
    inputs = {
        "x": rng.normal(size=(2, 8, height, width)),
        "offset": rng.normal(size=(2, 36, height, width)),
        "weight": rng.normal(size=(3, 8, 3, 3)),
        "bias": rng.normal(size=3),
        "mask": rng.random((2, 18, height, width)) if modulated else None,
    }
    inputs = {
        name: None if value is None else value.astype(np.float32) for name, value in inputs.items()
    }
    settings = {"stride": 1, "padding": 1, "dilation": 1}
    (result,) = run_onnx("DeformConv2d", list(inputs.values()), **node_attributes(inputs, settings))
    np.testing.assert_allclose(result, in_pytorch(inputs, **settings), rtol=0, atol=1e-3)


def test_without_offsets_it_is_a_convolution():
    inputs, settings = draw(5, stride=2, padding=1, groups=2)
    inputs["offset"][:] = 0
    x, _, weight, bias, _ = (
        None if value is None else torch.from_numpy(value) for value in inputs.values()
    )
    expected = F.conv2d(x, weight, bias, stride=2, padding=1, groups=2)
    torch.testing.assert_close(in_pytorch(inputs, **settings), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("distance", [1e4, -1e10, 3e38, np.inf, -np.inf])
def test_what_is_far_outside_counts_as_zero(distance, run_onnx):
    inputs, settings = draw(1, padding=1)
    inputs["offset"][:] = distance
    expected = np.broadcast_to(inputs["bias"][:, None, None], (12, *inputs["offset"].shape[2:]))
    assert (in_pytorch(inputs, **settings)[0].numpy() == expected).all()
    (result,) = run_onnx("DeformConv2d", list(inputs.values()), **node_attributes(inputs, settings))
    assert (result[0] == expected).all()


def test_half_inputs_are_sampled_in_single(run_onnx):
    inputs, settings = draw(3, padding=1, modulated=True)
    half = {name: value.astype(np.float16) for name, value in inputs.items()}
    (result,) = run_onnx("DeformConv2d", list(half.values()), **node_attributes(half, settings))
    expected = in_pytorch(
        {name: value.astype(np.float32) for name, value in half.items()}, **settings
    )
    assert result.dtype == np.float16
    np.testing.assert_allclose(result, expected, rtol=2e-2, atol=2e-2)


def test_gradients_reach_every_input():
    inputs, settings = draw(2, kernel=(2, 2), offset_groups=2, groups=3, modulated=True)
    inputs["offset"] = (
        np.clip(inputs["offset"], -1, 1) * 0.8 + 0.05
    )  # bilinear has kinks at whole cells
    tensors = {
        name: torch.from_numpy(value.astype(np.float64)).requires_grad_()
        for name, value in inputs.items()
    }

    def convolve(*values):
        return deform_conv2d(**dict(zip(tensors, values, strict=True)), **settings)

    assert torch.autograd.gradcheck(convolve, tuple(tensors.values()), fast_mode=True)


class Layers(torch.nn.Module):
    """The modulated layer of detectors, the first version with groups, a modulated one without a bias."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.modulated = ModulatedDeformConv2d(4, 6, stride=2)
        torch.nn.init.normal_(self.modulated.conv_offset_mask.weight, std=0.3)
        self.weight = torch.nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x, offset):
        x = deform_conv2d(self.modulated(x), offset, self.weight, padding=1)
        mask = x.repeat(1, 9, 1, 1)
        return deform_conv2d(
            x, mask[:, :18], self.weight[:, [0, 1, 2, 0]], padding=1, mask=mask[:, :9]
        )


def example(pictures):
    rng = torch.Generator().manual_seed(pictures)
    return tuple(torch.randn(pictures, *size, generator=rng) for size in ((4, 9, 7), (36, 5, 4)))


def export(dynamic_shapes=None):
    with warnings.catch_warnings():
        # torch 2.13's exporter uses a name that its own pytree deprecates.
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        program = torch.onnx.export(
            Layers().eval(),
            example(1 if dynamic_shapes is None else 2),
            dynamo=True,
            opset_version=20,
            dynamic_shapes=dynamic_shapes,
            verbose=False,
        )
    model = add_functions(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    return model


def test_a_layer_is_one_node_of_any_batch_size(run_model):
    model = export([{0: torch.export.Dim.DYNAMIC}] * 2)
    nodes = [node.op_type for node in model.graph.node if node.domain == "edgeseg"]
    assert nodes == ["DeformConv2d_4x9x7", "DeformConv2d_6x5x4", "DeformConv2d_4x5x4"]
    for pictures in (1, 2, 3):
        inputs = example(pictures)
        (result,) = run_model(model, [value.numpy() for value in inputs])
        np.testing.assert_allclose(result, Layers()(*inputs).detach(), rtol=0, atol=3e-5)


def test_tensorrt_rtx_compiles_it_for_every_target(compile_rtx):
    assert compile_rtx(export(), "SM75", "SM86", "SM89", "SM120")


def test_an_untrained_layer_is_a_convolution_of_half_the_weights():
    layer = ModulatedDeformConv2d(4, 6, dilation=2)
    x = torch.randn(1, 4, 9, 7)
    expected = F.conv2d(x, layer.weight / 2, layer.bias, padding=2, dilation=2)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(4, 7, 7)}, r"x has the shape \(4, 7, 7\), weight .*: expected \(B, C, H, W\)"),
        ({"weight": torch.zeros(5, 3, 3, 3)}, r"weight of the shape \(5, 3, 3, 3\) makes no groups of 4"),
        ({"offset": torch.zeros(1, 27, 7, 7)}, r"offset has the shape \(1, 27, 7, 7\), expected \(1, G\*18, 7, 7\)"),
        ({"offset": torch.zeros(1, 54, 7, 7)}, "with a divisor G of 4"),
        ({"stride": 2}, r"expected \(1, G\*18, 4, 4\)"),
        ({"mask": torch.zeros(1, 18, 7, 7)}, r"mask has the shape \(1, 18, 7, 7\), expected \(1, 9, 7, 7\)"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(changes, message):
    arguments = {
        "x": torch.zeros(1, 4, 7, 7),
        "offset": torch.zeros(1, 18, 7, 7),
        "weight": torch.zeros(5, 4, 3, 3),
        "padding": 1,
    }
    with pytest.raises(ValueError, match=message):
        deform_conv2d(**arguments | changes)
