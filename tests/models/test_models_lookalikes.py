"""Checkpoints of official models under another model's name: refused, or said, with the name that fits."""

import dataclasses
import logging

import pytest
import torch

import edgeseg
from edgeseg.models import MODELS, get_spec
from edgeseg.models.building import create
from edgeseg.models.checkpoint import CheckpointError, load_weights
from edgeseg.models.lookalikes import check_file_name, fitting_model, lookalikes
from edgeseg.models.state_dicts import entries_of, fits_of


def _official(name, **config):
    """A state dict with the names and shapes of an official checkpoint, its values all zero."""
    spec = get_spec(name)
    with torch.device("meta"):
        model = spec.build(name, None, config)
    table = spec.key_table(name, config)
    return {
        table.original_from_ours(key) or key: torch.zeros((), dtype=value.dtype).expand(value.shape)
        for key, value in model.state_dict().items()
    }


@pytest.mark.parametrize(
    ("name", "checkpoint", "advice"),
    [
        ("yolact_resnet50", ("yolact_resnet50_pascal", {}), "yolact_resnet50_pascal; with classes of your own it fits with --num-classes 21"),
        ("centernet_resnet18_dcn", ("centernet_resnet18_dcn_pascal", {}), "centernet_resnet18_dcn_pascal; with classes of your own it fits with --num-classes 20"),
        ("yolact_edge_resnet50", ("yolact_resnet50_pascal", {}), "yolact_resnet50_pascal; with classes of your own it fits with --num-classes 21"),
        ("yolact_edge_resnet50", ("yolact_edge_vid_resnet50", {}), "yolact_edge_vid_resnet50"),
        ("yolact_resnet50", ("yolact_edge_resnet50", {}), "yolact_edge_resnet50"),
        ("yolact_resnet50", ("yolact_plus_resnet50", {}), "yolact_plus_resnet50"),
        ("yolact_resnet50", ("yolact_resnet101", {}), "yolact_resnet101"),
        ("maskrcnn_resnet50_fpn", ("maskrcnn_resnet50_fpn_3x", {}), "maskrcnn_resnet50_fpn_3x"),
        ("maskrcnn_resnet50_fpn", ("maskrcnn_resnet50_fpn_v2", {"num_classes": 3}), "maskrcnn_resnet50_fpn_v2 with --num-classes 3"),
        ("maskrcnn_resnet50_fpn_3x", ("maskrcnn_resnet50_fpn_3x", {"num_classes": 8}), "with --num-classes 8"),
        ("centernet_dla34", ("centernet_dlav0_34", {}), "centernet_dlav0_34"),
        ("centernet_dla34", ("centernet_dla34_pose", {}), "centernet_dla34_pose"),
        ("hourglass_stack8", ("hourglass_stack2", {}), "hourglass_stack2"),
        ("landmarks_heatmap_hrnet_w18", ("landmarks_heatmap_hrnet_w18", {"num_points": 68}), "with --set num_points=68"),
        ("retinaface_mobilenet025", ("retinaface_resnet50", {}), "retinaface_resnet50"),
    ],
)  # fmt: skip
def test_the_name_that_fits_is_found(name, checkpoint, advice):
    other, config = checkpoint
    state = {f"module.{key}": value for key, value in _official(other, **config).items()}
    found = fitting_model(entries_of({"state_dict": state}), get_spec(name), {})
    assert found == f"It fits {advice}."


def test_a_checkpoint_of_another_model_is_refused_with_the_name_that_fits():
    state = _official("retinaface_resnet50")
    with pytest.raises(
        CheckpointError, match=r"does not fit the model:(?s:.*)\nIt fits retinaface_resnet50\.$"
    ):
        edgeseg.create_model("retinaface_mobilenet025", weights=state, image_size=64)
    with pytest.raises(CheckpointError, match=r"\nCheck the model's name, and num_classes if "):
        edgeseg.create_model("retinaface_tiny", weights={"conv.weight": torch.ones(3)})


def test_own_classes_that_are_as_many_as_an_official_model_s_are_said(caplog):
    state = _official("yolact_resnet50_pascal")
    with caplog.at_level(logging.WARNING):
        edgeseg.create_model("yolact_resnet50", weights=state, num_classes=21, image_size=138)
    assert (
        "the weights of yolact_resnet50 fit the official model yolact_resnet50_pascal as well, which "
        "differs in pred_scales, use_square_anchors" in caplog.text
    )


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("yolact_resnet50", {"num_classes": 21}, {"yolact_resnet50_pascal"}),
        ("yolact_edge_resnet50", {"num_classes": 21}, {"yolact_resnet50_pascal"}),
        ("yolact_edge_resnet50", {"num_classes": 81}, set()),
        ("yolact_resnet50", {"labels": tuple(map(str, range(20)))}, set()),
        ("yolact_resnet50_pascal", {}, set()),
        ("yolact_resnet101", {"num_classes": 21}, set()),
        ("centernet_dla34", {"num_classes": 20}, {"centernet_dla34_pascal"}),
        ("centernet_dla34_pascal", {"num_classes": 80}, {"centernet_dla34"}),
    ],
)
def test_lookalikes_are_models_of_the_same_shapes_and_another_configuration(name, config, expected):
    with torch.device("meta"):
        model = get_spec(name).build(name, None, config)
    assert {other for other, _ in lookalikes(model, config)} == expected


def test_a_model_outside_the_package_is_told_of_the_package_s_that_fits():
    tiny = get_spec("centernet_tiny")
    spec = dataclasses.replace(
        tiny,
        name="harbour",
        build=lambda name, size, config: tiny.build("centernet_tiny", size, config),
        key_table=lambda name, config: tiny.key_table("centernet_tiny", config),
    )
    assert fitting_model(entries_of({"conv.weight": torch.ones(3)}), spec, {}) is None
    found = fitting_model(entries_of(_official("hourglass_tiny")), spec, {})
    assert found == "It fits hourglass_tiny."
    model = tiny.build("centernet_tiny", None, {"num_classes": 3})
    model.name = "own:harbour"
    assert not list(lookalikes(model, {"num_classes": 3}))


@pytest.mark.parametrize(
    ("file", "name", "settings", "message"),
    [
        ("yolact_im700_54_800000.pth", "yolact_resnet101", {}, "yolact_resnet101 that needs --image-size 700x700"),
        ("yolact_im400_54_800000.pth", "yolact_resnet101", {"image_size": (400, 400)}, None),
        ("yolact_im400_54_800000.pth", "yolact_resnet101", {}, "--image-size 400x400"),
        ("yolact_base_54_800000.pth", "yolact_resnet101", {}, None),
        ("yolact_resnet50_54_800000.pth", "yolact_resnet50", {}, None),
        ("yolact_resnet50_pascal_120_40000.pth", "yolact_resnet50_pascal", {}, None),
        ("yolact_resnet50_pascal_120_40000.pth", "yolact_resnet50", {"num_classes": 21}, "take yolact_resnet50_pascal, or rename"),
        ("yolact_resnet50_54_800000.pth", "yolact_resnet50_pascal", {}, "take yolact_resnet50, or rename"),
        ("yolact_resnet50_54_800000.pth", "yolact_edge_resnet50", {}, None),
        ("yolact_im700_54_800000.pth", "yolact_edge_resnet101", {}, "--image-size 700x700"),
        ("yolact_resnet50_pascal_120_40000.pth", "yolact_edge_resnet50", {"num_classes": 21}, "take yolact_resnet50_pascal"),
        ("ctdet_pascal_dla_384.pth", "centernet_dla34_pascal", {}, None),
        ("ctdet_pascal_dla_512.pth", "centernet_dla34_pascal", {}, "--image-size 512x512"),
        ("ctdet_pascal_dla_512.pth", "centernet_dla34_pascal", {"image_size": (384, 384)}, None),
        ("ctdet_pascal_resdcn18_384.pth", "centernet_resnet18_dcn", {"num_classes": 20}, "take centernet_resnet18_dcn_pascal"),
        ("ctdet_coco_dla_2x.pth", "centernet_dla34", {}, None),
        ("model_final.pth", "yolact_resnet50", {}, None),
    ],
)  # fmt: skip
def test_an_official_file_is_known_by_its_name_where_its_content_does_not_tell(
    file, name, settings, message
):
    if message is None:
        check_file_name(f"/weights/{file}", get_spec(name), settings)
    else:
        with pytest.raises(CheckpointError, match=message):
            check_file_name(f"/weights/{file}", get_spec(name), settings)


def test_the_name_is_looked_at_before_the_file():
    with pytest.raises(CheckpointError, match="--image-size 700x700"):
        create("yolact_resnet101", weights="yolact_im700_54_800000.pth", config={})


@pytest.mark.exhaustive
def test_a_checkpoint_fits_no_other_official_model_unless_it_computes_the_same():
    built = {}
    for name in MODELS:
        spec = get_spec(name)
        with torch.device("meta"):
            model = spec.build(name, None, {})
        built[name] = model, spec.key_table(name, {}), entries_of(_official(name))
    same = {
        (name, other)
        for name, (_, _, entries) in built.items()
        for other, (model, table, _) in built.items()
        if name != other
        and sum(not table.is_ignored(entry.name) for entry in entries) == len(model.state_dict())
        and fits_of(entries, model.state_dict(), table)[0].is_complete
    }
    assert same == {
        ("yolact_resnet50", "yolact_edge_resnet50"),
        ("yolact_resnet101", "yolact_edge_resnet101"),
    }
    for name, other in same:
        own, its = built[name][0].config, built[other][0].config
        assert all(getattr(its, key) == value for key, value in vars(own).items())


class _Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rpn = torch.nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pixel_mean", torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1), None),
        ("pixel_std", torch.ones(3, 1, 1), None),
        ("pixel_std", torch.tensor([57.375, 57.12, 58.395]), "pixel_std is 57.375, 57.12, 58.395, expected 1, 1, 1"),
        ("proposal_generator.anchor_generator.cell_anchors.0", torch.tensor([
            [-22.6274, -11.3137, 22.6274, 11.3137], [-16.0, -16, 16, 16],
            [-11.3137, -22.6274, 11.3137, 22.6274]]), None),
        ("proposal_generator.anchor_generator.cell_anchors.1", torch.tensor([[-8.0, -8, 8, 8]]),
         "cell_anchors.1 is -8, -8, 8, 8, expected -45.25"),
    ],
)  # fmt: skip
def test_what_a_checkpoint_holds_of_its_configuration_is_compared(key, value, message):
    spec = get_spec("maskrcnn_resnet50_fpn_3x")
    with torch.device("meta"):
        constants = spec.constants(spec.build(spec.name, None, {}).config)
    table = spec.key_table(spec.name, {})
    state = {"model": {"rpn.weight": torch.ones(2, 2), "rpn.bias": torch.ones(2), key: value}}
    if message is None:
        load_weights(_Small(), state, table, constants=constants)
    else:
        with pytest.raises(CheckpointError, match=message):
            load_weights(_Small(), state, table, constants=constants)
