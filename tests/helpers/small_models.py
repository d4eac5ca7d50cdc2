"""A small model of every family and of every kind of head, each of which is exported once for all tests."""

import numpy as np
import torch
import upsnet_cases
import vpsnet_cases
import yolact_cases
from cornernet_cases import small_model
from surface_cases import HEADS, small_densepose

import edgeseg
from edgeseg_bench.datasets import open_dataset

SEVERAL = 5
"""The largest number of detections of the models whose results are counted."""


def create(name):
    """Return a model, always with the same weights, and the options that it is exported with."""
    make, options = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return make(), options()


def counted(name, most=SEVERAL):
    """A model in which boxes suppress nothing, whose classifier's bias decides what it finds."""
    return COUNTED[name](most)


def _shapes(name, limit, **options):
    """A tiny model with its shipped weights; `limit` is its option for the number of detections."""
    return lambda most: edgeseg.create_model(name, weights="shapes", **{limit: most}, **options)


def _scored_masks(most):
    return edgeseg.create_model(
        "yolact_tiny", use_maskiou=True, image_size=256, nms_thresh=1.0, max_num_detections=most
    )


def _corners(kind):
    def make(most):
        model = small_model(kind, mirror_test=most != 1, max_detections=most)
        return _flat(model, model.heads)

    return make


def _centers(kind):
    def make(most):
        weights = "shapes" if kind == "detection" else None
        options = {"image_size": 128, "max_detections": most, "keep_res": most == 1}
        model = edgeseg.create_model("centernet_tiny", weights=weights, kind=kind, **options)
        return _flat(model, ["heatmap"])

    return make


def _flat(model, heads):
    """A model whose heads give flat maps: every place is as good as any other."""
    with torch.no_grad():
        for number, name in enumerate(heads, 1):
            model.heads[name].predictor.weight.zero_()
            model.heads[name].predictor.bias.fill_(number / 1000)  # equal ones are one tensor
    return model


COUNTED = {
    "maskrcnn": _shapes("maskrcnn_tiny", "box_detections_per_img", box_nms_thresh=1.0),
    "yolact": _shapes("yolact_tiny", "max_num_detections", nms_thresh=1.0),
    "yolact ++": _scored_masks,
    "retinaface": _shapes(
        "retinaface_tiny", "keep_top_k", nms_threshold=1.0, confidence_threshold=0.5
    ),
    "cornernet": _corners("corners"),
    "triplets": _corners("triplets"),
    "centernet": _centers("detection"),
    "centernet pose": _centers("pose"),
}


def _upsnet():
    """Sure of its classes, with things everywhere."""
    model = edgeseg.create_model(
        "upsnet_resnet50_cityscapes", **upsnet_cases.SMALL, backbone="small"
    )
    with torch.no_grad():
        model.box_predictor.cls_score.weight.mul_(40)
        model.box_predictor.cls_score.bias[0] = -2
        model.mask_head.predictor.weight.mul_(20)
        model.semantic_head.predictor.bias[11:] = 3
        for conv in model.semantic_head.convs:
            conv.offset.weight.normal_(0, 0.1)
    return model


def _vpsnet():
    """Sure of its classes, so that there are contenders."""
    model = edgeseg.create_model("vpsnet_fusetrack_cityscapes", **vpsnet_cases.SMALL)
    with torch.no_grad():
        model.box_predictor.cls_score.weight.mul_(40)
        model.box_predictor.cls_score.bias[0] = -2
        model.mask_head.predictor.weight.mul_(20)
    return model


def _clip():
    """Frames of a picture that moves."""
    whole = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    whole = whole.repeat(5, axis=0).repeat(5, axis=1)
    return [whole[2 * n : 2 * n + 80, 3 * n : 3 * n + 120].copy() for n in range(4)]


CLIP = _clip()
NOISE = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)


def _flat_options():
    # Where all scores are equal, which of them come first is the engine's affair.
    (sample,) = open_dataset("shapes", limit=1)
    return {"images": [sample.image], "allow_mismatch": True}


MODELS = {
    **{
        name: (lambda name=name: counted(name), _flat_options)
        for name in ("yolact ++", "cornernet", "triplets", "centernet pose")
    },
    "densepose": (
        lambda: small_densepose(**HEADS["DeepLab"]), lambda: {"num_images": 1, "variants": False}
    ),
    "upsnet": (_upsnet, lambda: {"images": [NOISE], "variants": False}),
    "yolact_edge": (
        lambda: edgeseg.create_model(
            "yolact_edge_vid_resnet50", **yolact_cases.SMALL_VIDEO, key_interval=3
        ),
        lambda: {"images": CLIP},
    ),
    "vpsnet": (_vpsnet, lambda: {"images": CLIP}),
}  # fmt: skip
"""Name -> what makes the model, and what makes the options of its export."""
