"""Stacked Hourglass against the recorded results of the original, stage by stage."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from golden import load_case

import edgeseg
from edgeseg.models.checkpoint import CheckpointError
from edgeseg.models.hourglass.config import PRESETS
from edgeseg.models.hourglass.model import StackedHourglass, decode
from edgeseg.models.hourglass.spec import SPECS, key_table

# The crop carries 1/512 of a grey level where the original's is float64: 8e-6 of its largest value.
TOLERANCE = 2e-5
CENTRE, SIDE = (170.0, 160.0), 216.0  # scale 1.35: 1.25 times the side is 200 * 1.35
BOX = np.array([[CENTRE[0] - SIDE / 2, CENTRE[1] - SIDE / 2,
                 CENTRE[0] + SIDE / 2, CENTRE[1] + SIDE / 2]], np.float32)  # fmt: skip


@pytest.fixture(scope="module")
def golden():
    return load_case("hourglass", "dev")


@pytest.fixture(scope="module")
def model(golden):
    return edgeseg.create_model("hourglass_stack2", weights=golden.weights())


@pytest.fixture(scope="module")
def stages(golden, model):
    """Every stage of the model on the golden person."""
    task = edgeseg.torch_predictor(model).task
    inputs, _ = task.preprocess(golden.image, box=tuple(BOX[0].tolist()))
    with torch.inference_mode():
        found = model.stages(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return {name: stage.numpy() for name, stage in found.items()}


def test_every_stage_is_the_original_s(golden, stages):
    heatmaps = np.stack([stages["heatmaps0"][:1], stages["heatmaps1"][:1]], axis=1)
    taps = {
        "input": stages["input"].transpose(0, 2, 3, 1),
        "pre": stages["stem"][:1],
        "hg0": stages["hourglass0"][:1],
        "heatmaps": heatmaps,
        "heatmaps_last": stages["heatmaps1"][:1, :, ::2, ::2],
        "heatmaps_last_flipped": stages["heatmaps1"][1:, :, ::2, ::2],
        "det": stages["heatmaps"][0],
    }
    errors = {name: golden.relative_error(name, stage) for name, stage in taps.items()}
    assert {name: error for name, error in errors.items() if error > TOLERANCE} == {}


def test_the_crop_is_the_original_s(golden, stages):
    """Its upper border lies a pixel above the exact one: the original's inverse gives 24.999..."""
    crop = stages["input"][0].transpose(1, 2, 0) * 255
    assert golden.relative_error("crop_image", crop) < TOLERANCE


def test_points_in_the_crop_are_exactly_the_original_s(golden, stages):
    expected = golden.arrays["crop_joints"]
    np.testing.assert_array_equal(stages["keypoints"][..., :2], expected[..., :2])
    np.testing.assert_allclose(stages["keypoints"][..., 2], expected[..., 2], atol=1e-5)


def test_joints_in_the_picture_are_exactly_the_original_s(golden, model):
    result = edgeseg.torch_predictor(model)(golden.image, boxes=BOX)
    assert len(result) == 1
    np.testing.assert_array_equal(result.keypoints[..., :2], golden.arrays["joints"])
    np.testing.assert_allclose(result.keypoints[..., 2], golden.arrays["scores"], atol=1e-5)


def test_without_the_mirrored_picture_the_heat_maps_are_those_of_the_crop_alone(golden, stages):
    single = edgeseg.create_model("hourglass_stack2", weights=golden.weights(), flip_test=False)
    inputs, _ = edgeseg.torch_predictor(single).task.preprocess(
        golden.image, box=tuple(BOX[0].tolist())
    )
    with torch.inference_mode():
        found = single.stages(**{name: torch.from_numpy(x) for name, x in inputs.items()})
    assert found["heatmaps"].shape == (1, 16, 64, 64)
    expected = np.minimum(stages["heatmaps1"][:1], 1)
    np.testing.assert_allclose(found["heatmaps"].numpy(), expected, atol=1e-5)


def test_a_mirrored_person_has_the_mirrored_pose():
    """The flip test makes the model symmetric: left and right swap, and columns count back."""
    torch.manual_seed(0)
    model = edgeseg.create_model("hourglass_tiny", flip_test=True)
    image = torch.randint(0, 256, (2, 128, 128, 3), dtype=torch.uint8)
    with torch.inference_mode():
        maps = model.stages(image)["heatmaps"]
        mirrored = model.stages(image.flip(2))["heatmaps"]
    order = list(model.config.flip_order)
    torch.testing.assert_close(mirrored[:, order].flip(3), maps, atol=1e-5, rtol=1e-4)


def test_a_batch_gives_what_its_pictures_give_alone():
    torch.manual_seed(1)
    model = edgeseg.create_model("hourglass_tiny", flip_test=True)
    image = torch.randint(0, 256, (3, 128, 128, 3), dtype=torch.uint8)
    with torch.inference_mode():
        together = model(image)["keypoints"]
        alone = torch.cat([model(image[row : row + 1])["keypoints"] for row in range(3)])
    assert together.shape == (3, 16, 3)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(-0.5, (0.0, 0.0), id="nothing-above-zero-is-not-shifted"),
        pytest.param(0.5, (1.0, 1.0), id="half-a-pixel-and-a-quarter-back"),
    ],
)
def test_a_point_without_a_peak_stays_at_the_corner(value, expected):
    maps = torch.full((1, 1, 4, 4), -1.0)
    maps[0, 0, 0, 0] = value
    x, y, score = decode(maps)[0, 0].tolist()
    if value > 0:
        assert (x, y, score) == (*expected, value)
    else:
        assert score == 0
        assert x % 4 == y % 4 == 0


@pytest.mark.parametrize("name", SPECS)
def test_parameters_are_counted_without_layers_that_are_never_called(name):
    with torch.device("meta"):
        model = _meta_model(name)
    assert sum(p.numel() for p in model.parameters()) == SPECS[name].num_parameters


@pytest.mark.parametrize("name", ["hourglass_stack2", "hourglass_stack8"])
def test_every_parameter_has_a_name_in_the_original_and_back(name):
    with torch.device("meta"):
        model = _meta_model(name)
    table = key_table(name)
    for ours in model.state_dict():
        theirs = table.original_from_ours(ours)
        assert theirs is not None, ours
        assert table.ours_from_original(theirs) == ours


def test_the_checkpoint_s_keys_and_shapes_are_exactly_ours(golden):
    """The original's residuals hold a projection even where the width stays and none is used."""
    with torch.device("meta"):
        model = _meta_model("hourglass_stack2")
    table = key_table("hourglass_stack2")
    ours = {
        table.original_from_ours(key): list(value.shape)
        for key, value in model.state_dict().items()
    }
    theirs = {key.removeprefix("model.module."): shape for key, shape, _ in golden.state}
    unused = {key for key in theirs if key not in ours}
    assert ours == {key: shape for key, shape in theirs.items() if key not in unused}
    for key in unused:
        assert table.is_ignored(key), key
        assert table.original_from_ours(table.ours_from_original(key)) == key
        if key.endswith("weight"):
            assert theirs[key][0] == theirs[key][1]


def test_a_training_checkpoint_loads_with_and_without_its_nesting(golden, tmp_path):
    weights = {name: torch.from_numpy(array) for name, array in golden.weights().items()}
    torch.save({"state_dict": weights, "optimizer": {}, "epoch": 3}, tmp_path / "checkpoint.pt")
    bare = {name.removeprefix("model.module."): array for name, array in weights.items()}
    states = [
        edgeseg.create_model("hourglass_stack2", weights=source).state_dict()
        for source in (tmp_path / "checkpoint.pt", bare)
    ]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_a_checkpoint_of_another_number_of_stacks_is_refused(golden):
    with pytest.raises(CheckpointError, match=r"\d+ unexpected: model.module.hgs.1|hgs.1"):
        edgeseg.create_model("hourglass_stack2", weights=golden.weights(), num_stacks=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (128, 192)}, "image_size 128x192 found, .* use 192x192"),
        ({"image_size": 100}, "image_size 100x100 found, .* multiple of 64: use 128x128"),
        ({"image_size": 0}, "use 64x64"),
        ({"stacks": 2}, "options stacks found"),
        ({"num_stacks": 0}, "num_stacks 0 found"),
        ({"channels": 63}, "channels 63, .* positive even widths"),
        ({"stem_channels": (16, 32)}, r"stem_channels \(16, 32\) found, expected three"),
        ({"crop_margin": 0}, "crop_margin 0 found"),
        ({"crop_rounding": "up"}, "crop_rounding 'up' found, expected 'none' or 'truncate'"),
        ({"num_keypoints": 3, "flip_test": True}, "each of the 3 key points .* or flip_test False"),
        (
            {"num_keypoints": 3, "flip_order": (1, 2, 0), "flip_test": True},
            r"flip_order \(1, 2, 0\) found",
        ),
        ({"keypoint_names": ("a", "b")}, "keypoint_names with 2 entries found"),
        ({"skeleton": ((0, 16),)}, "expected numbers below 16"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        edgeseg.create_model("hourglass_tiny", **options)


def test_a_picture_of_another_size_is_refused():
    model = edgeseg.create_model("hourglass_tiny")
    image = torch.zeros(1, 64, 128, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"\(1, 64, 128, 3\) found, expected \(B, 128, 128, 3\)"):
        model(image)


def _meta_model(name):
    """The modules without memory or arithmetic."""
    config = replace(PRESETS[name], flip_test=False)
    return StackedHourglass(name, config)
