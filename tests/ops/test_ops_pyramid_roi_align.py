"""RoI-Align: PyTorch against its formula written as loops, ONNX against PyTorch."""

import math

import numpy as np
import pytest
import torch

from edgeseg.ops import pyramid_levels, pyramid_roi_align

STRIDES = [4, 8, 16, 32]
HEIGHT, WIDTH = 200, 264


def pyramid(rng, pictures=1, levels=4, channels=3):
    return [
        torch.from_numpy(
            rng.normal(size=(pictures, channels, -(-HEIGHT // stride), -(-WIDTH // stride))).astype(
                np.float32
            )
        )
        for stride in STRIDES[:levels]
    ]


def random_rois(rng, pictures, count):
    """Boxes of all sizes, most of them inside the picture, some outside, inverted, empty."""
    centre = rng.uniform(-20, [WIDTH + 20, HEIGHT + 20], (pictures, count, 2))
    half = np.exp(rng.uniform(0, 5, (pictures, count, 2))) / 2
    rois = np.concatenate([centre - half, centre + half], 2)
    clipped = rois.clip(0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
    rois = np.where(rng.random((pictures, count, 1)) < 0.8, clipped, rois)
    rois[:, ::17, 2] = rois[:, ::17, 0]
    rois[:, ::19] = rois[:, ::19, [2, 3, 0, 1]]
    return torch.from_numpy(rois.astype(np.float32))


def pooled_by_the_formula(feature, roi, stride, output_size, sampling_ratio, aligned):
    """One box, float64, steps 1 to 9 of torchvision's kernel as they are written down."""
    channels, height, width = feature.shape
    offset = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (float(value) / stride - offset for value in roi)
    w, h = x2 - x1, y2 - y1
    if not aligned:
        w, h = max(w, 1.0), max(h, 1.0)
    bin_h, bin_w = h / output_size[0], w / output_size[1]
    count_y = sampling_ratio or max(math.ceil(bin_h), 0)
    count_x = sampling_ratio or max(math.ceil(bin_w), 0)
    out = np.zeros((channels, *output_size))
    for i, j in np.ndindex(*output_size):
        for iy, ix in np.ndindex(count_y, count_x):
            y = y1 + i * bin_h + (iy + 0.5) * bin_h / count_y
            x = x1 + j * bin_w + (ix + 0.5) * bin_w / count_x
            if not (-1 <= y <= height and -1 <= x <= width):
                continue
            y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            fy, fx = y - top, x - left
            upper = (1 - fx) * feature[:, top, left] + fx * feature[:, top, right]
            lower = (1 - fx) * feature[:, bottom, left] + fx * feature[:, bottom, right]
            out[:, i, j] += (1 - fy) * upper + fy * lower
    return out / max(count_y * count_x, 1)


SETTINGS = [
    pytest.param(7, 2, False, id="box-head"),
    pytest.param(7, 0, True, id="box-head-adaptive"),
    pytest.param(14, 0, False, id="mask-head-adaptive"),
    pytest.param((3, 5), 1, True, id="one-sample"),
    pytest.param((1, 2), 3, False, id="nine-samples"),
]


@pytest.mark.parametrize(("output_size", "sampling_ratio", "aligned"), SETTINGS)
def test_pytorch_follows_the_formula(output_size, sampling_ratio, aligned):
    rng = np.random.default_rng(3)
    features, rois = pyramid(rng, channels=2), random_rois(rng, 1, 24)
    pooled = pyramid_roi_align(
        features,
        rois,
        strides=STRIDES,
        output_size=output_size,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
    )
    bins = tuple(np.broadcast_to(output_size, 2).tolist())
    for index, level in enumerate(pyramid_levels(rois[0], strides=STRIDES).tolist()):
        expected = pooled_by_the_formula(
            features[level][0].double().numpy(),
            rois[0, index],
            STRIDES[level],
            bins,
            sampling_ratio,
            aligned,
        )
        np.testing.assert_allclose(pooled[0, index].numpy(), expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize(("output_size", "sampling_ratio", "aligned"), SETTINGS)
def test_onnx_agrees_with_pytorch(pool_onnx, output_size, sampling_ratio, aligned, levels, seed):
    rng = np.random.default_rng(seed)
    pictures = seed + 1
    features = pyramid(rng, pictures, levels)
    rois = random_rois(rng, pictures, int(rng.integers(1, 90)))
    rois[0, 0] = torch.tensor([0.0, 0, WIDTH, HEIGHT])
    rois[-1, -1, seed] = [np.nan, np.inf, -np.inf][seed]
    settings = {
        "strides": STRIDES[:levels],
        "output_size": np.broadcast_to(output_size, 2).tolist(),
        "sampling_ratio": sampling_ratio,
        "aligned": aligned,
        "level_rule": ["torchvision", "detectron2", "upsnet"][seed],
        "canonical_scale": 100.0,
        "canonical_level": 3,
    }
    expected = pyramid_roi_align(
        features, rois, **settings | {"output_size": tuple(settings["output_size"])}
    )
    pooled = pool_onnx(features, rois, **settings | {"aligned": int(aligned)})
    assert not expected[-1, -1].any()
    np.testing.assert_allclose(pooled, expected.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("output_size", "sampling_ratio", "aligned"), SETTINGS)
def test_boxes_can_be_the_last_axis(pool_onnx, output_size, sampling_ratio, aligned):
    rng = np.random.default_rng(5)
    features, rois = pyramid(rng, 2, 3), random_rois(rng, 2, 33)
    bins = np.broadcast_to(output_size, 2).tolist()
    settings = {"strides": STRIDES[:3], "sampling_ratio": sampling_ratio, "aligned": aligned}
    settings |= {"level_rule": "torchvision", "canonical_scale": 100.0, "canonical_level": 3}
    second = pyramid_roi_align(features, rois, output_size=tuple(bins), **settings)
    last = pyramid_roi_align(features, rois, output_size=tuple(bins), rois_last=True, **settings)
    assert torch.equal(last, second.permute(0, 2, 3, 4, 1))
    settings |= {"output_size": bins, "aligned": int(aligned), "rois_last": 1}
    pooled = pool_onnx(features, rois, **settings)
    assert pooled.shape == last.shape
    np.testing.assert_allclose(pooled, last.numpy(), rtol=0, atol=1e-4)


def test_the_atlas_takes_levels_of_any_proportion(pool_onnx):
    rng = np.random.default_rng(0)
    for sizes in ([(5, 3), (3, 2), (2, 1)], [(3, 9), (2, 5), (1, 3), (1, 2)], [(2, 1), (1, 1)]):
        features = [rng.normal(size=(1, 2, *size)).astype(np.float32) for size in sizes]
        height, width = (side * 4 for side in sizes[0])
        rois = rng.uniform(0, [width, height, width, height], (1, 20, 4)).astype(np.float32)
        settings = {
            "strides": STRIDES[: len(sizes)],
            "sampling_ratio": 2,
            "level_rule": "torchvision",
            "canonical_scale": 6.0,
            "canonical_level": 3,
        }
        expected = pyramid_roi_align(
            [torch.from_numpy(value) for value in features],
            torch.from_numpy(rois),
            aligned=True,
            output_size=2,
            **settings,
        )
        pooled = pool_onnx(features, rois, aligned=1, output_size=[2, 2], **settings)
        np.testing.assert_allclose(pooled, expected.numpy(), rtol=0, atol=1e-5)


def test_boxes_of_more_samples_than_any_other_are_exact_in_every_chunk(pool_onnx):
    """All boxes cover the whole map at the finest level: every loop runs as long as it may."""
    rng = np.random.default_rng(0)
    features = pyramid(rng, levels=1, channels=2)
    rois = torch.tensor([0.0, 0, WIDTH, HEIGHT]).repeat(1, 70, 1)
    settings = {"strides": [4], "sampling_ratio": 0, "output_size": [3, 3]}
    rule = {"level_rule": "torchvision", "canonical_scale": 224.0, "canonical_level": 4}
    pooled = pool_onnx(features, rois, aligned=1, **settings, **rule)
    expected = pooled_by_the_formula(features[0][0].numpy(), rois[0, 0], 4, (3, 3), 0, True)
    np.testing.assert_allclose(pooled[0], np.broadcast_to(expected, (70, 2, 3, 3)), atol=1e-4)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_gradients_reach_the_features(sampling_ratio):
    rng = np.random.default_rng(0)
    features = [
        torch.from_numpy(rng.normal(size=(1, 2, size, size))).requires_grad_() for size in (8, 4)
    ]
    rois = torch.tensor([[[3.0, 2, 20, 30], [-4, 5, 9, 9], [1, 1, 31, 31]]])

    def pool(*features):
        return pyramid_roi_align(
            features,
            rois,
            strides=[4, 8],
            output_size=2,
            sampling_ratio=sampling_ratio,
            aligned=True,
            canonical_scale=16,
            canonical_level=3,
        )

    assert pyramid_levels(
        rois, strides=[4, 8], canonical_scale=16, canonical_level=3
    ).unique().tolist() == [0, 1]
    assert torch.autograd.gradcheck(pool, features)


def test_no_boxes_give_an_empty_result_that_can_be_trained_on():
    features = [torch.ones(2, 3, 8, 8, requires_grad=True)]
    pooled = pyramid_roi_align(
        features, torch.zeros(2, 0, 4), strides=[4], output_size=7, sampling_ratio=0, aligned=True
    )
    assert pooled.shape == (2, 0, 3, 7, 7)
    pooled.sum().backward()
    assert not features[0].grad.any()


def test_a_box_may_have_a_least_size_of_its_own(pool_onnx):
    """Without any, small boxes are sampled where they are (mmdetection 1), and negative ones at a point."""
    ramp = np.arange(12, dtype=np.float32) + np.zeros((1, 1, 12, 1), np.float32)
    rois = np.array([[[8, 8, 9, 9], [8, 8, 8, 40], [8, 8, 4, 4]]], np.float32)
    settings = {"strides": [4], "output_size": [1, 1], "sampling_ratio": 2}
    for least, widths in ((0.0, [0.25, 0, 0]), (0.5, [0.5] * 3), (1.0, [1] * 3)):
        pooled = pyramid_roi_align(
            [torch.from_numpy(ramp)],
            torch.from_numpy(rois),
            aligned=False,
            min_cells=least,
            **settings,
        )
        expected = 2 + np.array(widths) / 2
        np.testing.assert_allclose(pooled.numpy().ravel(), expected, rtol=0, atol=1e-6)
        found = pool_onnx(
            [ramp],
            rois,
            aligned=0,
            min_cells=least,
            level_rule="torchvision",
            canonical_scale=224.0,
            canonical_level=4,
            **settings,
        )
        np.testing.assert_allclose(found, pooled, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("side", "rule", "level"),
    [
        (0.0, "torchvision", 0),
        (111.9999, "torchvision", 0),
        (112.0, "torchvision", 1),
        (112.0, "detectron2", 1),
        (223.9999, "torchvision", 2),
        (223.9999, "detectron2", 1),
        (224.0, "detectron2", 2),
        (448.0, "detectron2", 3),
        (111.9999, "mmdetection", 0),
        (112.0, "mmdetection", 1),
        (448.0, "mmdetection", 3),
        (110.99, "upsnet", 0),
        (111.0, "upsnet", 1),  # a pixel more on each side
        (222.9999, "upsnet", 2),
        (5000.0, "torchvision", 3),
        (float("nan"), "torchvision", 0),
    ],
)
def test_level_of_a_square(side, rule, level):
    roi = torch.tensor([0.0, 0.0, side, side])
    assert pyramid_levels(roi, strides=STRIDES, level_rule=rule).item() == level


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": [4, 8]}, "1 levels and 2 strides, expected one each"),
        ({"strides": [6]}, "the first stride is 6, expected a power of two"),
        ({"rois": torch.zeros(3, 4)}, r"rois have the shape \(3, 4\), expected \(B, R, 4\)"),
        ({"level_rule": "caffe"}, "level_rule is 'caffe', expected one of torchvision, detectron2"),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    arguments = {
        "features": [torch.zeros(1, 3, 8, 8)],
        "rois": torch.zeros(1, 2, 4),
        "strides": [4],
        "output_size": 7,
        "sampling_ratio": 2,
        "aligned": False,
    }
    with pytest.raises(ValueError, match=message):
        pyramid_roi_align(**arguments | changes)
