"""Landmark models against the recorded results of PFLD-pytorch and HRNet, stage by stage."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from golden import fill, load_case

import edgeseg
from edgeseg.models.checkpoint import CheckpointError
from edgeseg.models.landmarks.config import PRESETS
from edgeseg.models.landmarks.model import (
    LandmarkHeatmaps,
    LandmarkRegressor,
    decode_quarter,
    decode_soft,
    stretch_contrast,
)
from edgeseg.models.landmarks.spec import SPECS, key_table, point_names, skeleton

# Ten times the noise of float32 (a float64 run of the originals: 1e-6).
TOLERANCE = 1e-5

HRNET_TAPS = {
    "input": "input",
    "layer1": "stage1_0",
    **{
        f"stage{stage}_{branch}": f"stage{stage}_{branch}"
        for stage, branch in product((2, 3, 4), range(4))
        if branch < stage
    },
    "heatmaps": "heatmaps",
}
PFLD_TAPS = {name: name for name in ("input", "c4", "c8", "narrow", "c16", "whole", "coordinates")}
CASES = {
    "dev_hrnet_wflw": ("landmarks_heatmap_hrnet_w18", {"num_points": 98}, HRNET_TAPS),
    "dev_hrnet_300w": ("landmarks_heatmap_hrnet_w18", {"num_points": 68}, HRNET_TAPS),
    "dev_pfld": ("landmarks_regression_pfld", {}, PFLD_TAPS),
}


@pytest.fixture(scope="module", params=CASES)
def recorded(request):
    """A case, the model with its weights, and every stage on the original's own crop."""
    golden, model = _golden_model(request.param)
    _, _, taps = CASES[request.param]
    crop = golden.arrays["crop"]
    if model.config.channel_order == "rgb":
        crop = crop[..., ::-1].copy()
    with torch.inference_mode():
        found = model.stages(torch.from_numpy(crop[None]))
    return golden, model, taps, {stage: x.numpy() for stage, x in found.items()}


def _golden_model(case):
    golden = load_case("landmarks", case)
    name, options, _ = CASES[case]
    return golden, edgeseg.create_model(name, weights=golden.weights(), **options)


def _box(golden):
    return np.array(golden.description["config"]["box_xyxy"], np.float32)


def test_every_stage_is_the_original_s(recorded):
    golden, _, taps, found = recorded
    errors = {name: golden.relative_error(name, found[stage]) for name, stage in taps.items()}
    assert {name: error for name, error in errors.items() if error > TOLERANCE} == {}


def test_points_in_the_crop_are_the_original_s(recorded):
    golden, _, _, found = recorded
    if "coords" in golden.arrays:  # heat-map pixels, counted from 1
        np.testing.assert_array_equal(found["points"][0], (golden.arrays["coords"] - 1) * 4)
        np.testing.assert_allclose(found["scores"], found["heatmaps"].max((2, 3)))
    else:
        expected = golden.arrays["coordinates"] * 112
        np.testing.assert_allclose(found["points"], expected, atol=1e-3)
        assert (found["scores"] == 1).all()


def test_heat_map_points_in_the_picture_are_the_original_s():
    """The original cuts them to whole pixels and adds one; ours keep their fraction."""
    golden, model = _golden_model("dev_hrnet_wflw")
    (result,) = edgeseg.torch_predictor(model)(golden.image, boxes=_box(golden)[None])
    np.testing.assert_array_equal(np.trunc(result.points) + 1, golden.arrays["preds"])


def test_regressed_points_in_the_picture_are_the_original_s():
    golden, model = _golden_model("dev_pfld")
    (result,) = edgeseg.torch_predictor(model)(golden.image, boxes=_box(golden)[None])
    np.testing.assert_allclose(result.points, golden.arrays["points"], atol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_the_crop_is_the_original_s(case):
    golden, model = _golden_model(case)
    box = tuple(_box(golden).tolist())
    inputs, _ = edgeseg.torch_predictor(model).task.preprocess(golden.image, box=box)
    (crop,) = inputs["image"]
    is_rgb = model.config.channel_order == "rgb"
    np.testing.assert_array_equal(crop[..., ::-1] if is_rgb else crop, golden.arrays["crop"])


@pytest.mark.parametrize("case", CASES)
def test_the_checkpoint_s_keys_and_shapes_are_exactly_ours(case):
    name, options, _ = CASES[case]
    with torch.device("meta"):
        model = _meta_model(name, **options)
    table = key_table(name)
    ours = {
        table.original_from_ours(key): list(value.shape)
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    theirs = {
        key: shape
        for key, shape, _ in load_case("landmarks", case).state
        if not table.is_ignored(key)
    }
    assert ours == theirs
    for key in model.state_dict():
        assert table.ours_from_original(table.original_from_ours(key)) == key


def test_pfld_s_published_file_loads_as_it_is_nested(tmp_path):
    """checkpoint.pth.tar holds two networks; one of them, the auxiliary one, serves training only."""
    golden = load_case("landmarks", "dev_pfld")
    auxiliary = golden.description["checkpoint"]["auxiliarynet"]
    content = {
        "epoch": 7,
        "pfld_backbone": {k: torch.from_numpy(v) for k, v in golden.weights().items()},
        "auxiliarynet": {k: torch.from_numpy(v) for k, v in fill.fill_all(auxiliary).items()},
    }
    torch.save(content, tmp_path / "checkpoint.pth.tar")
    model = edgeseg.create_model(
        "landmarks_regression_pfld", weights=tmp_path / "checkpoint.pth.tar"
    )
    expected = golden.weights()["fc.bias"]
    np.testing.assert_array_equal(model.coordinates.bias.detach().numpy(), expected)


def test_hrnet_s_files_load_with_and_without_the_prefix_of_dataparallel():
    golden = load_case("landmarks", "dev_hrnet_300w")
    state = {f"module.{key}": value for key, value in golden.weights().items()}
    model = edgeseg.create_model(
        "landmarks_heatmap_hrnet_w18", weights={"state_dict": state}, num_points=68
    )
    expected = golden.weights()["head.3.bias"]
    np.testing.assert_array_equal(model.trunk.head[1].bias.detach().numpy(), expected)
    with pytest.raises(CheckpointError, match=r"head.3.bias: \(68,\) found, \(98,\) expected"):
        edgeseg.create_model("landmarks_heatmap_hrnet_w18", weights=state)


@pytest.mark.parametrize("name", SPECS)
def test_parameters_are_counted(name):
    with torch.device("meta"):
        model = _meta_model(name)
    assert sum(p.numel() for p in model.parameters()) == SPECS[name].num_parameters


def _meta_model(name, **options):
    """The modules without memory or arithmetic."""
    config = replace(PRESETS[name], **options)
    return (LandmarkRegressor if config.is_regression else LandmarkHeatmaps)(name, config).eval()


@pytest.mark.parametrize(
    ("place", "neighbours", "expected"),
    [
        pytest.param((3, 2), {}, (3.5, 2.5), id="equal neighbours do not move it"),
        pytest.param((3, 2), {(4, 2): 0.5, (3, 1): 0.5}, (3.75, 2.25), id="towards the higher"),
        pytest.param((0, 2), {(1, 2): 0.5, (0, 1): 0.5}, (0.5, 2.5), id="left border"),
        pytest.param((7, 2), {(6, 2): 0.5, (7, 1): 0.5}, (7.5, 2.5), id="right border"),
        pytest.param((3, 0), {(4, 0): 0.5}, (3.5, 0.5), id="upper border"),
        pytest.param((3, 5), {(4, 5): 0.5}, (3.5, 5.5), id="lower border"),
    ],
)
def test_a_peak_moves_by_a_quarter(place, neighbours, expected):
    heatmap = torch.zeros(1, 1, 6, 8)
    for (x, y), value in {place: 1.0, **neighbours}.items():
        heatmap[0, 0, y, x] = value
    assert decode_quarter(heatmap)[0, 0].tolist() == [4 * side for side in expected]


def test_a_map_without_a_positive_value_gives_the_pixel_before_the_first():
    assert decode_quarter(torch.full((1, 2, 8, 8), -0.5)).tolist() == [[[-2, -2]] * 2]
    assert decode_quarter(torch.zeros(1, 1, 8, 8)).tolist() == [[[-2, -2]]]


def test_soft_argmax_finds_the_part_of_a_pixel_that_a_quarter_misses():
    rng = np.random.default_rng(0)
    places = torch.tensor(rng.uniform(10, 50, (200, 2)), dtype=torch.float32)
    ys, xs = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    squares = (xs - places[:, 0, None, None]) ** 2 + (ys - places[:, 1, None, None]) ** 2
    heatmaps = torch.exp(-squares / (2 * 1.5**2))[None]
    quarter = (decode_quarter(heatmaps)[0] / 4 - places).abs().mean()
    soft = (decode_soft(heatmaps, sharpness=8.0, window=7)[0] / 4 - places).abs().mean()
    assert 0.1 < quarter < 0.15
    assert soft < 0.02


def test_contrast_is_stretched_to_whole_grey_levels():
    image = torch.tensor([[10.0, 20.0, 50.0], [10.0, 10.0, 10.0]]).reshape(2, 1, 1, 3)
    assert stretch_contrast(image).flatten(1).tolist() == [[0, 64, 255], [0, 0, 0]]


@pytest.mark.parametrize("num_points", [5, 19, 29, 68, 98])
@pytest.mark.parametrize("name", ["landmarks_regression_tiny", "landmarks_heatmap_tiny"])
def test_any_number_of_points_of_a_batch(name, num_points):
    _check_batch(name, num_points, image_size=(64, 96))


def test_the_hourglass_s_heat_maps_of_a_batch():
    options = {"hourglass_stacks": 2, "hourglass_channels": 32, "decoding": "soft_argmax"}
    _check_batch("landmarks_heatmap_hourglass", 5, image_size=(128, 128), **options)


def _check_batch(name, num_points, *, image_size, **options):
    torch.manual_seed(0)
    model = edgeseg.create_model(name, num_points=num_points, image_size=image_size, **options)
    image = torch.randint(0, 256, (3, *image_size, 3), dtype=torch.uint8)
    with torch.inference_mode():
        together = model(image)
        alone = torch.cat([model(image[row : row + 1])["points"] for row in range(3)])
    assert together["points"].shape == (3, num_points, 2)
    assert together["scores"].shape == (3, num_points)
    torch.testing.assert_close(together["points"], alone, atol=1e-3, rtol=1e-5)


def test_every_point_has_a_name_of_its_own():
    for num_points in (1, 5, 19, 29, 68, 98):
        assert len(set(point_names(num_points))) == len(point_names(num_points)) == num_points
    assert point_names(68)[36] == "left_eye_0"
    assert point_names(98)[96:] == ("left_pupil", "right_pupil")
    assert point_names(19)[12:] == (
        *(f"nose_{i}" for i in range(3)),
        *(f"mouth_{i}" for i in range(3)),
        "chin",
    )
    assert point_names(29)[22:25] == ("left_mouth", "right_mouth", "upper_lip_1")


MIRRORED = {  # pairs that change places in a mirror, counted from 1: MATCHED_PARTS of HRNet's transforms.py
    19: ((1, 6), (2, 5), (3, 4), (7, 12), (8, 11), (9, 10), (13, 15), (16, 18)),
    29: (
        (1, 2),
        (5, 7),
        (3, 4),
        (6, 8),
        (9, 10),
        (11, 12),
        (13, 15),
        (17, 18),
        (14, 16),
        (19, 20),
        (23, 24),
    ),
}


@pytest.mark.parametrize("num_points", MIRRORED)
def test_the_markups_of_aflw_and_cofw_are_their_own_mirror_images(num_points):
    mirror = {point: point for point in range(num_points)}
    for one, other in MIRRORED[num_points]:
        mirror |= {one - 1: other - 1, other - 1: one - 1}
    lines = {frozenset(pair) for pair in skeleton(num_points)}
    assert {frozenset(mirror[end] for end in pair) for pair in lines} == lines
    part = [name.rpartition("_")[0] or name for name in point_names(num_points)]
    for point, name in enumerate(part):
        side = {"left": "right", "right": "left"}
        first, _, rest = name.partition("_")
        expected = f"{side[first]}_{rest}" if first in side and rest else side.get(first, name)
        assert part[mirror[point]] == expected


def test_the_lines_of_the_known_markups_join_neighbours():
    assert skeleton(7) == skeleton(5) == ()
    for num_points, num_lines in ((19, 12), (29, 28), (68, 63), (98, 93)):
        pairs = skeleton(num_points)
        assert len(pairs) == len(set(pairs)) == num_lines
        assert all(0 <= end < num_points for pair in pairs for end in pair)


def test_a_picture_of_another_size_is_refused():
    model = edgeseg.create_model("landmarks_regression_tiny")
    with pytest.raises(ValueError, match=r"\(1, 32, 80, 3\) found, expected \(B, 80, 80, 3\)"):
        model(torch.zeros(1, 32, 80, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tiny", {"image_size": (100, 64)}, "100x64 found, .* multiples of 16.* use 112x64"),
        ("tiny", {"image_size": 16}, "16x16 found, .* use 32x32"),
        ("tiny", {"num_points": 0}, "num_points 0 found, expected at least 1"),
        ("tiny", {"crop_margin": 0}, "crop_margin 0 found, expected a positive"),
        ("tiny", {"decoding": "argmax"}, "decoding 'argmax' found, expected one of argmax_quarter"),
        ("tiny", {"window": 4}, "window 4 found, expected an odd number"),
        ("tiny", {"trunk": "vgg"}, "trunk 'vgg' found, expected one of pfld"),
        ("tiny", {"crop_rounding": "up"}, "crop_rounding 'up' found"),
        ("tiny", {"points": 3}, "options points found .* expected some of"),
        ("pfld", {"channel_order": "grey"}, "order 'grey' found"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        edgeseg.create_model(f"landmarks_regression_{name}", **options)


def test_an_hourglass_takes_squares_that_it_can_halve():
    with pytest.raises(ValueError, match=r"image_size 128x100 found, .* use 128x128"):
        edgeseg.create_model("landmarks_heatmap_hourglass", image_size=(128, 100))
    with pytest.raises(ValueError, match="image_size 128x192 found, expected a square"):
        edgeseg.create_model("landmarks_heatmap_hourglass", image_size=(128, 192))


def test_branches_and_stages_of_hrnet_must_agree():
    with pytest.raises(ValueError, match="4 widths and 2 stages found"):
        edgeseg.create_model("landmarks_heatmap_hrnet_w18", hrnet_modules=(1, 1))
