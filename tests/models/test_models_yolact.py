"""YOLACT and YOLACT++ against the recorded results of the original, stage by stage."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from golden import match_detections
from torch.nn import functional as F
from yolact_cases import NAMES, SUPPRESSIONS, load_instances

import edgeseg
from edgeseg.models.checkpoint import load_weights
from edgeseg.models.yolact.config import PRESETS, YolactConfig
from edgeseg.models.yolact.model import Yolact, priors_of
from edgeseg.models.yolact.spec import SPECS, key_table

# Between the noise of float32 (found on two kinds of CPU: 4e-6 and 1.5e-5) and the smallest mistake
# that was tried (no eps in the norms: 4e-5 in the logits).
TOLERANCE = 2.5e-5
OFFICIAL = sorted(set(PRESETS) - {"yolact_tiny"})


class _GivenInput(torch.nn.Module):
    """Stands in for the normalisation: the network gets exactly what the original's got."""

    def __init__(self, tensor):
        super().__init__()
        self.tensor = tensor

    def forward(self, *_):
        return self.tensor


def _original_input(golden, model):
    """Resize in floating point, then normalise: the original's FastBaseTransform."""
    bgr = torch.from_numpy(golden.image).permute(2, 0, 1)[None].float()
    resized = F.interpolate(bgr, model.config.image_size, mode="bilinear", align_corners=False)
    return (resized.flip(1) - model.normalize.mean) / model.normalize.std


@pytest.fixture(scope="module", params=NAMES)
def run(request):
    """A case, its model and every stage of the model on the original's input."""
    golden = load_instances(request.param)
    model = edgeseg.create_model(NAMES[request.param], weights=golden.weights())
    normalize = model.normalize
    model.normalize = _GivenInput(_original_input(golden, model))
    with torch.inference_mode():
        found = model.stages(torch.zeros(1, *model.config.image_size, 3, dtype=torch.uint8))
    model.normalize = normalize
    return golden, model, found


def test_every_stage_is_the_original_s(run):
    golden, model, found = run
    low, high = (model.priors / 550).split(2, dim=1)
    taps = {
        **{f"c{level}": found[f"c{level}"] for level in range(3, 6)},
        **{f"p{level}": found[f"p{level}"] for level in range(3, 8)},
        "input": found["input"],
        "priors": torch.cat([(low + high) / 2, high - low], dim=1),
        "loc": found["box_deltas"],
        "logits": found["class_logits"],
        "coef": found["mask_coefficients"].tanh(),
        "proto": found["prototypes"].permute(0, 2, 3, 1),
    }
    if model.mask_scorer is not None:
        taps["maskiou_input"] = found["masks"].transpose(0, 1)
        taps["maskiou_all"] = found["mask_fit"][0]
    errors = {name: golden.relative_error(name, stage.numpy()) for name, stage in taps.items()}
    assert {name: error for name, error in errors.items() if error > TOLERANCE} == {}


@pytest.mark.parametrize("nms", SUPPRESSIONS)
def test_detections_in_the_network_s_frame_are_the_original_s(run, nms):
    golden, model, found = run
    config, prefix = model.config, SUPPRESSIONS[nms]
    model.config = replace(config, nms=nms)
    with torch.inference_mode():
        results = {name: rows[0].numpy() for name, rows in model.detect(found).items()}
    model.config = config
    expected = {name: golden.arrays[f"{prefix}_{name}"] for name in ("box", "score", "class")}
    count = len(expected["score"])
    np.testing.assert_allclose(
        results["boxes"][:count] / 550, expected["box"], atol=1e-5, rtol=1e-5
    )
    np.testing.assert_allclose(results["scores"][:count], expected["score"], atol=5e-6)
    np.testing.assert_array_equal(results["labels"][:count], expected["class"])
    for name in model.outputs:
        assert not results[name][count:].any()


def test_instances_of_the_picture_are_the_original_s(run):
    golden, model, _ = run
    result = edgeseg.torch_predictor(model)(golden.image)
    rows = match_detections(result, golden, box_px=1, score=1e-4)
    assert (result.boxes[rows] != golden.arrays["boxes"]).sum() <= 2
    different = result.masks[rows] != golden.masks()
    assert different.sum() <= 50, f"{different.sum()} of {different.size} pixels"
    if model.mask_scorer is not None:
        expected = golden.arrays["final_mask_score"]
        np.testing.assert_allclose(result.mask_scores[rows], expected, atol=1e-4)


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_parameter_has_a_name_in_the_original_and_back(name):
    table = key_table(name)
    for ours in _meta_model(name).state_dict():
        theirs = table.original_from_ours(ours)
        assert theirs is not None, ours
        assert table.ours_from_original(theirs) == ours


@pytest.mark.parametrize("case", NAMES)
def test_the_checkpoint_s_keys_and_shapes_are_exactly_ours(case):
    """But for a branch that only training uses."""
    name = NAMES[case]
    ours = {
        key_table(name).original_from_ours(key): list(value.shape)
        for key, value in _meta_model(name).state_dict().items()
    }
    theirs = {key: shape for key, shape, _ in load_instances(case).state}
    extra = sorted(theirs.keys() - ours.keys())
    assert extra == ["semantic_seg_conv.bias", "semantic_seg_conv.weight"]
    assert all(key_table(name).is_ignored(key) for key in extra)
    assert ours == {key: shape for key, shape in theirs.items() if key not in extra}


@pytest.mark.parametrize("name", SPECS)
def test_parameters_are_counted_without_the_branch_of_training(name):
    count = sum(parameter.numel() for parameter in _meta_model(name).parameters())
    assert count == SPECS[name].num_parameters


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("yolact_plus_resnet50", [(s, b) for s, n in ((1, 4), (2, 6), (3, 3)) for b in range(n)]),
        ("yolact_plus_resnet101",
         [(1, 0), (1, 3), *((2, b) for b in range(0, 22, 3)), (3, 0)]),
    ],
)  # fmt: skip
def test_the_deformable_blocks_are_the_original_s(name, blocks):
    stages = _meta_model(name).backbone.stages
    found = [
        (stage, block)
        for stage, layers in enumerate(stages)
        for block, layer in enumerate(layers)
        if hasattr(layer.conv2.conv, "conv_offset_mask")
    ]
    assert found == blocks


def _meta_model(name):
    """The modules without memory or arithmetic."""
    with torch.device("meta"):
        return Yolact(name, PRESETS[name])


def test_another_backbone_s_checkpoint_has_its_own_names():
    golden = load_instances("dev_darknet53")
    model = edgeseg.create_model("yolact_resnet50", backbone="darknet53", weights=golden.weights())
    expected = golden.weights()["prediction_layers.0.bbox_layer.bias"]
    np.testing.assert_array_equal(model.head.boxes.bias.detach().numpy(), expected)


def test_what_old_checkpoints_hold_too_is_left_out():
    model = edgeseg.create_model("yolact_resnet50")
    table = key_table(model.name)
    wanted = {key: value + 1 for key, value in model.state_dict().items()}
    state = {table.original_from_ours(key): value for key, value in wanted.items()}
    extra = ("backbone.layer1.0.conv1.weight", "fpn.downsample_layers.2.weight")
    load_weights(model, state | dict.fromkeys(extra, torch.zeros(1)), table)
    torch.testing.assert_close(dict(model.state_dict()), wanted, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("image_size", "scales"),
    [
        pytest.param(400, (17, 34, 69, 139, 279), id="im400"),
        pytest.param(550, (24, 48, 96, 192, 384), id="base"),
        pytest.param(700, (30, 61, 122, 244, 488), id="im700"),
    ],
)
def test_the_priors_follow_the_size_of_the_input(image_size, scales):
    config = edgeseg.create_model("yolact_tiny", image_size=image_size, pred_scales=scales).config
    official = edgeseg.create_model(
        "yolact_resnet50", image_size=image_size, fpn_channels=8, backbone="darknet53"
    ).config
    assert official.pred_scales == config.pred_scales == scales


def test_priors_of_pascal_are_not_square():
    options = {"use_square_anchors": False, "pred_scales": (32, 64, 128, 256, 512)}
    config = replace(YolactConfig(), **options)
    first = priors_of(config)[:3]
    sizes = first[:, 2:] - first[:, :2]
    root = 2**0.5
    expected = [[32, 32], [32 / root, 32 * root], [32 * root, 32 / root]]
    np.testing.assert_allclose(sizes, expected, rtol=1e-6)
    centers = (first[:, 2:] + first[:, :2]) / 2
    np.testing.assert_allclose(centers, np.full((3, 2), 0.5 * 550 / 69), rtol=1e-6)


def test_a_picture_of_another_size_is_refused():
    model = edgeseg.create_model("yolact_tiny", image_size=64)
    with pytest.raises(ValueError, match=r"\(1, 32, 64, 3\) found, expected \(B, 64, 64, 3\)"):
        model(torch.zeros(1, 32, 64, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 16}, "image_size 16x16 found, expected at least 32x32"),
        ({"image_size": 200, "use_maskiou": True}, "expected at least 249x249 with use_maskiou"),
        ({"nms_threshold": 0.3}, "options nms_threshold found"),
        ({"nms": "soft"}, "nms 'soft' found, expected one of fast, fast_cross_class, traditional"),
        ({"nms_top_k": 4000}, "nms_top_k 4000 found, expected 1 to 3840: TensorRT"),
        ({"nms_thresh": 1.5}, "nms_thresh 1.5 found, expected 0 to 1"),
        ({"num_classes": 1, "labels": (), "category_ids": ()}, "num_classes 1 found"),
        ({"num_classes": 7, "labels": ("a", "b")}, "labels with 2 entries found, expected 6"),
        ({"pred_scales": (24, 48)}, "pred_scales .* expected 5 positive sizes"),
        ({"pred_aspect_ratios": ()}, "pred_aspect_ratios"),
        ({"scales_per_level": 0}, "scales_per_level 0 found"),
        ({"dcn_interval": 0}, "dcn_interval 0 found"),
        ({"backbone": "vgg16"}, "backbone 'vgg16' found, expected"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        edgeseg.create_model("yolact_tiny", **options)


@pytest.mark.parametrize("nms", SUPPRESSIONS)
@pytest.mark.parametrize("image_size", [(64, 64), (70, 97)], ids=["even", "odd"])
def test_no_detection_and_the_maximum_come_in_the_same_shapes(nms, image_size):
    """The bias of the classifier decides: everything is background, or everything is a disc."""
    model = edgeseg.create_model(
        "yolact_tiny", image_size=image_size, nms=nms, nms_top_k=5, max_num_detections=5
    )
    image = torch.zeros(2, *image_size, 3, dtype=torch.uint8)
    for winner in (0, 1):
        with torch.no_grad():
            bias = model.head.classes.bias.reshape(-1, 7)
            bias.fill_(-20)
            bias[:, winner] = 20
        with torch.inference_mode():
            for _ in range(2):
                results = model(image)
                assert results["boxes"].shape == (2, 5, 4)
                assert results["masks"].shape == (2, 5, *model.config.mask_size)
                assert bool((results["scores"] > 0).any()) == bool(winner)
                assert bool(results["masks"].any()) == bool(winner)


def test_a_batch_gives_what_its_pictures_give_alone():
    torch.manual_seed(0)
    model = edgeseg.create_model("yolact_tiny", image_size=(96, 128), nms_conf_thresh=0.0)
    images = torch.randint(0, 256, (3, 96, 128, 3), dtype=torch.uint8)
    with torch.inference_mode():
        together = model(images)
        for row in range(3):
            for name, alone in model(images[row : row + 1]).items():
                torch.testing.assert_close(together[name][row], alone[0], atol=1e-4, rtol=1e-4)


def test_what_is_not_a_number_is_no_detection():
    model = edgeseg.create_model("yolact_tiny", image_size=64, nms_conf_thresh=0.0)
    with torch.no_grad():
        model.head.classes.bias[:7] = torch.nan  # the first prior of each cell
    with torch.inference_mode():
        results = model(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    assert (results["scores"] > 0).all()
    assert all(x.isfinite().all() for x in results.values())


def test_a_mask_of_exactly_one_half_is_not_set():
    """Where all prototypes are 0; the original asks for more than 0.5."""
    model = edgeseg.create_model("yolact_tiny", image_size=64, nms_conf_thresh=0.0)
    with torch.no_grad():
        model.prototypes.output.conv.weight.zero_()
        model.prototypes.output.conv.bias.fill_(-1)
    result = edgeseg.torch_predictor(model)(np.full((57, 83, 3), 128, np.uint8))
    assert len(result) == 30
    assert not result.masks.any()
