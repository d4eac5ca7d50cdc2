"""UPSNet against the recorded results of the original, stage by stage and from picture to segments."""

import cv2
import numpy as np
import pytest
import torch
from golden import load_case
from upsnet_cases import CASE, SMALL, SYSTEM, check_panoptic, golden_options

import edgeseg
from edgeseg.models import model_manifest
from edgeseg.models.layers.anchors import twice_rounded_anchors
from edgeseg.models.upsnet.config import PRESETS
from edgeseg.models.upsnet.model import UPSNet
from edgeseg.models.upsnet.spec import SPECS, key_table

TOLERANCE = 1e-4
HEADS = {
    "input": "input",
    "p2": "p2",
    "p5": "p5",
    **{f"rpn_cls_p{level}": f"rpn_logits_p{level}" for level in range(2, 7)},
    **{f"rpn_box_p{level}": f"rpn_deltas_p{level}" for level in range(2, 7)},
    "fcn_score": "semantic_logits",
}
"""Array of the case -> stage."""


class _GivenInput(torch.nn.Module):
    """Stands in for the normalisation: the network gets what the original's got, without rounding to 1/256."""

    def __init__(self, tensor):
        super().__init__()
        self.tensor = tensor

    def forward(self, *_):
        return self.tensor


def _original_input(golden, mean):
    """The mean is taken off first, then the picture is resized by a factor, all in float32."""
    centred = golden.image.astype(np.float32) - np.array(mean, np.float32)
    scale = float(256 / min(centred.shape[:2]))
    resized = cv2.resize(centred, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    canvas = np.zeros((*golden.input_size, 3), np.float32)
    canvas[: resized.shape[0], : resized.shape[1]] = resized
    return torch.from_numpy(canvas.transpose(2, 0, 1)[None].copy())


@pytest.fixture(scope="module")
def model():
    golden = load_case(SYSTEM, CASE)
    return edgeseg.create_model(
        "upsnet_resnet50_coco", weights=golden.weights(), **golden_options(golden)
    )


@pytest.fixture(scope="module")
def found(model):
    """The case, the model, every stage of its picture, and the result."""
    golden = load_case(SYSTEM, CASE)
    predictor = edgeseg.torch_predictor(model)
    inputs, geometry = predictor.task.preprocess(golden.image)
    normalize, model.normalize = (
        model.normalize,
        _GivenInput(_original_input(golden, model.config.mean)),
    )
    with torch.inference_mode():
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        stages = {name: tensor.numpy() for name, tensor in model.stages(**tensors).items()}
    model.normalize = normalize
    return golden, model, stages, predictor.task.postprocess(stages, geometry)


def test_every_head_is_the_original_s(found):
    golden, _, stages, _ = found
    errors = {name: golden.relative_error(name, stages[stage]) for name, stage in HEADS.items()}
    assert {name: error for name, error in errors.items() if error > TOLERANCE} == {}


def test_proposals_are_the_original_s_and_so_is_what_is_found_in_them(found):
    """In their order, but for those whose scores differ by no more than a rounding."""
    golden, _, stages, _ = found
    rois = golden.arrays["rois"][:, 1:]
    proposals = stages["proposals"][0]
    assert not proposals[len(rois) :].any()
    distance = np.abs(rois[:, None] - proposals[None, : len(rois)]).max(axis=2)
    order = distance.argmin(axis=1)
    assert distance[np.arange(len(rois)), order].max() < 0.02
    assert sorted(order) == list(range(len(rois)))
    scores = golden.arrays["roi_scores"]
    assert (np.abs(scores - scores[order]) < 1e-5).all()
    assert golden.relative_error("rcnn_cls_score", stages["class_logits"][0][order]) < 1e-3
    assert golden.relative_error("rcnn_bbox_pred", stages["box_deltas"][0][order]) < 1e-3


@pytest.mark.parametrize(
    ("prefix", "theirs"), [("", "det"), ("contender_", "pan_pre")], ids=["detections", "contenders"]
)
def test_detections_and_contenders_are_the_original_s(found, prefix, theirs):
    golden, _, stages, _ = found
    boxes = golden.arrays["det_boxes_net" if prefix == "" else "pan_pre_boxes"][:, 1:]
    scores, labels = (golden.arrays[f"{theirs}_{part}"] for part in ("scores", "labels"))
    order = np.argsort(-scores, kind="stable")
    count = len(scores)
    ours = {part: stages[f"{prefix}{part}"][0] for part in ("boxes", "scores", "labels", "masks")}
    np.testing.assert_allclose(ours["scores"][:count], scores[order], atol=3e-5)
    np.testing.assert_array_equal(ours["labels"][:count], labels[order])
    np.testing.assert_allclose(ours["boxes"][:count], boxes[order], atol=5e-3)
    assert not ours["scores"][count:].any()
    masks = ours["masks"][:count][np.argsort(order)]
    if prefix:
        assert golden.relative_error("pan_mask_logits", masks) < TOLERANCE
    else:
        logits, index = (golden.arrays[f"det_mask_logits__{part}"] for part in ("value", "index"))
        expected = 1 / (1 + np.exp(-logits.astype(np.float64)))
        np.testing.assert_allclose(masks.reshape(-1)[index], expected, atol=2e-4)


def test_segments_and_instances_are_the_original_s(found):
    golden, _, _, result = found
    check_panoptic(golden, result)


def test_a_picture_becomes_the_original_s_segments(model):
    """All but single pixels: the picture goes in with a rounding to 1/256 of a grey level."""
    golden = load_case(SYSTEM, CASE)
    check_panoptic(golden, edgeseg.torch_predictor(model)(golden.image), pixels=5)


@pytest.mark.parametrize("name", PRESETS)
def test_every_parameter_has_a_name_in_the_original_and_back(name):
    table, model = key_table(name), _meta_model(name)
    for ours in model.state_dict():
        theirs = table.original_from_ours(ours)
        if PRESETS[name].backbone == "small":
            assert theirs is None
            continue
        assert theirs is not None, ours
        assert table.ours_from_original(theirs) == ours
    assert sum(p.numel() for p in model.parameters()) == SPECS[name].num_parameters


def test_the_checkpoint_s_keys_and_shapes_are_exactly_ours():
    golden = load_case(SYSTEM, CASE)
    table = key_table("upsnet_resnet50_coco")
    ours = {
        table.original_from_ours(key): list(value.shape)
        for key, value in _meta_model("upsnet_resnet50_coco").state_dict().items()
    }
    assert ours == {key: shape for key, shape, _ in golden.state}
    assert len(ours) == 376
    assert len(_meta_model("upsnet_resnet50_cityscapes").state_dict()) == 370


def test_the_names_of_the_deformable_backbone_are_the_original_s():
    table = key_table("upsnet_resnet101_dcn_coco")
    names = {
        table.original_from_ours(key)
        for key in _meta_model("upsnet_resnet101_dcn_coco").state_dict()
    }
    offsets = {name for name in names if "conv2_offset" in name}
    assert len(offsets) == 2 * (4 + 23 + 3)
    assert "resnet_backbone.res3.layers.0.conv2_offset.bias" in offsets
    assert not any(name.startswith("resnet_backbone.res2") for name in offsets)


def test_a_checkpoint_of_several_gpus_loads():
    """Its names begin with "module."."""
    model = edgeseg.create_model("upsnet_resnet50_cityscapes", **SMALL, backbone="small")
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    again = edgeseg.create_model(
        "upsnet_resnet50_cityscapes", weights=state, **SMALL, backbone="small"
    )
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_anchors_are_rounded_twice():
    expected = {  # the original's base anchors, x1 y1 x2 y2, of ratios 0.5, 1, 2
        4: [[-22, -10, 25, 13], [-14, -14, 17, 17], [-10, -22, 13, 25]],
        8: [[-40, -20, 47, 27], [-28, -28, 35, 35], [-20, -44, 27, 51]],
        16: [[-84, -40, 99, 55], [-56, -56, 71, 71], [-36, -80, 51, 95]],
        32: [[-164, -72, 195, 103], [-112, -112, 143, 143], [-76, -168, 107, 199]],
        64: [[-332, -152, 395, 215], [-224, -224, 287, 287], [-148, -328, 211, 391]],
    }
    for stride, anchors in expected.items():
        found = twice_rounded_anchors(8 * stride, (0.5, 1, 2), stride=stride)
        assert found.tolist() == anchors


def test_instances_are_an_option_that_the_map_does_not_depend_on():
    torch.manual_seed(3)
    model = edgeseg.create_model("upsnet_resnet50_cityscapes", **SMALL, backbone="small")
    without = edgeseg.create_model(
        "upsnet_resnet50_cityscapes",
        weights=model.state_dict(),
        **SMALL,
        backbone="small",
        gives_instances=False,
    )
    assert "boxes" not in without.outputs
    picture = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    found, other = (edgeseg.torch_predictor(each)(picture) for each in (model, without))
    np.testing.assert_array_equal(found.ids, other.ids)
    assert found.instances is not None
    assert other.instances is None


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"contender_score_thresh": 0.4}, "contender_score_thresh 0.4 found, expected 0.5 to 1"),
        ({"max_contenders": 5000}, "max_contenders 5000 found, expected 1 to 3840"),
        ({"overlap_threshold": 1.5}, "overlap_threshold 1.5 found, expected 0 to 1"),
        ({"stuff_area": -1}, "stuff_area -1 found"),
        ({"semantic_widths": ()}, r"semantic_widths \(\) found"),
        ({"stuff_labels": ()}, "no stuff_labels found"),
        ({"stuff_category_ids": (1,)}, "stuff_category_ids with 1 entries found"),
        ({"background_first": False}, "background_first False found"),
    ],
)
def test_options_that_cannot_work_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        edgeseg.create_model("upsnet_resnet50_coco", **option)


def test_labels_are_things_then_stuff_with_the_data_sets_categories():
    manifest = model_manifest(_meta_model("upsnet_resnet50_cityscapes"))
    assert manifest.labels[1] == "person"
    assert manifest.labels[9] == "road"
    assert (manifest.category_ids[8], manifest.category_ids[9]) == (33, 7)
    manifest = model_manifest(_meta_model("upsnet_resnet50_coco"))
    assert (len(manifest.labels), manifest.category_ids[-1]) == (134, 200)


def _meta_model(name):
    """The modules without memory or arithmetic."""
    with torch.device("meta"):
        return UPSNet(name, PRESETS[name])
