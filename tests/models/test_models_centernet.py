"""CenterNet against the recorded results of the original, stage by stage."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from centernet_cases import NAMES, golden_model, match
from golden import load_case

import edgeseg
from edgeseg.models import get_spec, model_manifest
from edgeseg.models.centernet.checkpoint import HOURGLASS
from edgeseg.models.centernet.config import PRESETS
from edgeseg.models.centernet.model import CenterNet, decode
from edgeseg.models.centernet.spec import DEMO, SPECS, key_table

# A float64 run of the original differs by up to 5e-5 (the offsets of the deformable convolutions
# amplify), a wrong eps or a swapped pair of maps by more than 1e-3.
TOLERANCE = 5e-5
TAPS = {
    "input": "input",
    "backbone": "backbone",
    "neck": "neck",
    "raw_hm": "heatmap",
    "raw_wh": "size",
    "raw_reg": "offset",
    "raw_hps": "joints",
    "raw_hm_hp": "joint_heatmap",
    "raw_hp_offset": "joint_offset",
}


def own_state(model):
    """Shapes of a model's parameters in the original's names."""
    return {
        key_table(model.name).original_from_ours(key): list(value.shape)
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


def meta_model(name, **options):
    """The modules without memory or arithmetic."""
    with torch.device("meta"):
        return CenterNet(name, replace(PRESETS[name], **options))


@pytest.mark.parametrize("case", NAMES)
def test_every_stage_and_result_is_the_original_s(case):
    golden, model = golden_model(case)
    predictor = edgeseg.torch_predictor(model)
    inputs, _ = predictor.task.preprocess(golden.image)
    if "warped_b" in golden.arrays:
        warped = np.stack([golden.arrays[f"warped_{channel}"] for channel in "bgr"], axis=-1)
        differs = inputs["image"][0] != warped
        assert differs.mean() <= 0.0015  # the exact sampling is off by a level here and there
        inputs = {"image": warped[None]}
    with torch.inference_mode():
        stages = model.stages(torch.from_numpy(inputs["image"]))
    found = {name: stage.numpy() for name, stage in stages.items()}
    recorded = [tap for tap in TAPS if tap in golden.description["outputs"]]
    errors = {tap: golden.relative_error(tap, found[TAPS[tap]]) for tap in recorded}
    assert {tap: error for tap, error in errors.items() if error > TOLERANCE} == {}

    decoded = golden.arrays["decoded"]
    boxes, scores, labels = (found[name][0] for name in ("boxes", "scores", "labels"))
    rows = match(boxes / 4, labels, scores, decoded, box=2e-4, score=5e-5)
    if "keypoints" in found:
        joints = found["keypoints"][0, rows, :, :2] / 4
        np.testing.assert_allclose(joints.reshape(100, 34), decoded[:, 5:39], rtol=0, atol=1e-3)


@pytest.mark.parametrize("case", NAMES)
def test_instances_of_the_picture_are_the_original_s(case):
    golden, model = golden_model(case)
    result = edgeseg.torch_predictor(model)(golden.image)
    final = golden.arrays["final"]
    rows = match(result.boxes, result.labels, result.scores, final, box=0.01, score=1e-4)
    if result.keypoints is not None:
        joints = result.keypoints[rows, :, :2].reshape(100, 34)
        np.testing.assert_allclose(joints, final[:, 5:39], rtol=0, atol=0.01)


@pytest.mark.parametrize("name", [name for name in SPECS if name != "centernet_tiny"])
def test_every_parameter_has_a_name_in_the_original_and_back(name):
    table = key_table(name)
    model = meta_model(name)
    for ours in model.state_dict():
        theirs = table.original_from_ours(ours)
        assert theirs is not None, ours
        assert table.ours_from_original(theirs) == ours


@pytest.mark.parametrize("case", NAMES)
def test_the_checkpoint_s_keys_and_shapes_are_exactly_ours(case):
    name = NAMES[case]
    table = key_table(name)
    theirs = {
        key: shape
        for key, shape, _ in load_case("centernet_points", case).state
        if not (table.is_ignored(key) or key.endswith("num_batches_tracked"))
    }
    assert own_state(meta_model(name)) == theirs


def test_another_backbone_s_checkpoint_has_its_own_names():
    golden = load_case("centernet_points", "dev_dlav0")
    model = edgeseg.create_model(
        "centernet_resnet18_dcn",
        backbone="dlav0_34",
        head_channels=256,
        weights=golden.weights(),
    )
    expected = golden.weights()["base.base_layer.0.weight"]
    np.testing.assert_array_equal(model.backbone.stem[0].conv.weight.detach().numpy(), expected)


def test_what_an_official_file_has_around_its_state_dict_is_taken_off(tmp_path):
    golden, model = golden_model("dev")
    state = {f"module.{key}": torch.from_numpy(value) for key, value in golden.weights().items()}
    torch.save({"epoch": 140, "state_dict": state, "optimizer": {}}, tmp_path / "model_best.pth")
    loaded = edgeseg.create_model(model.name, weights=tmp_path / "model_best.pth")
    for key, value in loaded.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key])


def test_the_heads_of_the_first_hourglass_are_left_out():
    """They serve in training only; everything else of the file must be ours."""
    for head in ("hm", "wh", "reg", "hps", "hm_hp", "hp_offset"):
        assert HOURGLASS.is_ignored(f"{head}.0.0.conv.weight")
        assert not HOURGLASS.is_ignored(f"{head}.1.0.conv.weight")
    assert not any(
        HOURGLASS.is_ignored(key) for key in own_state(meta_model("centernet_hourglass104"))
    )


@pytest.mark.parametrize("name", SPECS)
def test_parameters_are_counted(name):
    count = sum(parameter.numel() for parameter in meta_model(name).parameters())
    assert count == get_spec(name).num_parameters


@pytest.mark.parametrize("name", SPECS)
def test_the_manifest_tells_resize_labels_and_joints(name):
    manifest = model_manifest(meta_model(name))
    is_pose = PRESETS[name].kind == "pose"
    assert manifest.preprocess.resize == "affine"
    assert len(manifest.labels) == len(manifest.category_ids) == PRESETS[name].num_classes
    assert len(manifest.keypoint_names) == (17 if is_pose else 0)
    assert [output.name for output in manifest.outputs] == [
        "boxes", "scores", "labels", *(["keypoints"] if is_pose else [])
    ]  # fmt: skip
    if is_pose:
        assert manifest.labels == ("person",)
        assert manifest.category_ids == (1,)
    resized = model_manifest(meta_model(name, keep_res=True)).preprocess.resize
    assert resized == "center"


def test_any_trunk_does_either_kind():
    model = edgeseg.create_model("centernet_resnet18_dcn", kind="pose", image_size=64, num_joints=5)
    with torch.inference_mode():
        results = model(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
    assert results["keypoints"].shape == (2, 100, 5, 3)
    assert model_manifest(model).keypoint_names == ()


def test_a_kind_by_the_name_that_older_bundles_record_is_known():
    model = edgeseg.create_model("centernet_resnet18_dcn", task="pose", image_size=64)
    assert model.config.kind == "pose"


def test_the_demonstration_s_constants_are_an_option():
    model = edgeseg.create_model("centernet_tiny", image_size=64, **DEMO)
    assert model.normalize.mean.flatten().tolist() == pytest.approx([104.04, 113.985, 119.85])


def maps_of(height, width, peaks, num_joints=0):
    """Maps with a peak of the given logit at each (class, row, column)."""
    maps = {
        "heatmap": torch.full((1, 3, height, width), -200.0),
        "size": torch.ones(1, 2, height, width) * torch.tensor([4.0, 6.0])[:, None, None],
        "offset": torch.full((1, 2, height, width), 0.25),
    }
    for label, row, column, logit in peaks:
        maps["heatmap"][0, label, row, column] = logit
    return maps


def test_peaks_become_boxes_and_their_slopes_do_not():
    maps = maps_of(8, 8, [(2, 3, 5, 1.0), (2, 3, 6, 0.5), (1, 3, 5, 0.0)])
    results = decode(maps, 5)
    assert results["labels"][0, :2].tolist() == [2, 1]
    np.testing.assert_allclose(results["scores"][0], [0.7310586, 0.5, 0, 0, 0], atol=1e-6)
    expected = 4 * np.array([5.25 - 2, 3.25 - 3, 5.25 + 2, 3.25 + 3])
    np.testing.assert_allclose(results["boxes"][0, :2], [expected, expected])
    assert not results["boxes"][0, 2:].any()


def test_a_heat_map_that_is_not_a_number_gives_no_detection():
    maps = maps_of(8, 8, [(0, 1, 1, 2.0), (1, 6, 6, float("nan"))])
    results = decode(maps, 4)
    assert results["scores"][0].isfinite().all()
    assert (results["scores"][0] > 0).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("peak", "is_taken"),
    [
        pytest.param((4, 5, 2.0), True, id="near"),
        pytest.param((4, 6, 2.0), False, id="farther-than-three-tenths-of-the-box"),
        pytest.param((4, 5, -2.3), False, id="too-low"),
        pytest.param((0, 4, 2.0), False, id="outside-the-box"),
    ],
)
def test_a_joint_moves_to_the_nearest_peak_in_reach(peak, is_taken):
    """The box spans 4 x 6 places about (4.25, 4.25); the joint was regressed to (4, 4), or above the box."""
    row, column, logit = peak
    maps = maps_of(9, 9, [(0, 4, 4, 3.0)])
    maps["heatmap"] = maps["heatmap"][:, :1]
    maps["joints"] = torch.zeros(1, 2, 9, 9)
    maps["joints"][0, 1] = -4.0 if row == 0 else 0.0
    maps["joint_heatmap"] = torch.full((1, 1, 9, 9), -200.0)
    maps["joint_heatmap"][0, 0, row, column] = logit
    maps["joint_offset"] = torch.zeros(1, 2, 9, 9)
    maps["joint_offset"][0, 0] = 0.5
    x, y, score = decode(maps, 3)["keypoints"][0, 0, 0].tolist()
    if is_taken:
        assert (x, y) == (4 * (column + 0.5), 4 * row)
        assert score == pytest.approx(1 / (1 + np.exp(-logit)))
    else:
        assert (x, y) == (16, 0 if row == 0 else 16)


@pytest.mark.parametrize("logit", [-200.0, 20.0])
def test_no_detection_and_the_maximum_come_in_the_same_shapes(logit):
    """The bias of the heat map decides: nothing is a centre, or every place is one of each class."""
    model = edgeseg.create_model("centernet_tiny", image_size=64, max_detections=7)
    with torch.no_grad():
        model.heads["heatmap"].predictor.weight.zero_()
        model.heads["heatmap"].predictor.bias.fill_(logit)
    image = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    with torch.inference_mode():
        for _ in range(2):
            results = model(image)
            assert results["boxes"].shape == (2, 7, 4)
            assert (results["scores"] > 0).sum(1).tolist() == ([7, 7] if logit > 0 else [0, 0])


def test_a_picture_of_another_size_is_refused():
    model = edgeseg.create_model("centernet_tiny", image_size=64)
    with pytest.raises(ValueError, match=r"\(1, 32, 64, 3\) found, expected \(B, 64, 64, 3\)"):
        model(torch.zeros(1, 32, 64, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tiny", {"image_size": (100, 64)}, "image_size 100x64 found, .* use 128x64"),
        ("hourglass104", {"image_size": 96}, "multiples of 128: use 128x128"),
        ("tiny", {"nms": 0.3}, "options nms found"),
        ("tiny", {"kind": "masks"}, "kind 'masks' found, expected one of detection, pose"),
        ("tiny", {"backbone": "vgg"}, "backbone 'vgg' found"),
        ("tiny", {"backbone": "dla34"}, "expected four widths for 'small' and none"),
        ("tiny", {"num_classes": 0}, "num_classes 0 found, expected at least 1"),
        ("tiny", {"max_detections": 0}, "max_detections 0 found, expected 1 to 3136"),
        ("tiny", {"image_size": 32, "max_detections": 65}, "expected 1 to 64 for maps of 64 places"),
        ("tiny", {"num_classes": 6, "labels": ("a", "b")}, "labels with 2 entries found, expected 6"),
        ("tiny", {"std": (1.0, 0.0, 1.0)}, "expected positive grey levels"),
        ("tiny", {"kind": "pose", "labels": ("p",), "category_ids": (1,), "skeleton": ((0, 17),)},
         "expected numbers below 17"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        edgeseg.create_model(f"centernet_{name}", **options)
