"""DensePose against the recorded results of detectron2's project, stage by stage."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from golden import load_case, match_detections
from surface_cases import check_surfaces
from torch.nn import functional as F

import edgeseg
from edgeseg.models import get_spec, model_manifest
from edgeseg.models.densepose.config import PRESETS
from edgeseg.models.densepose.model import AtrousPyramid, DensePose
from edgeseg.models.densepose.spec import SPECS, key_table

TOLERANCE = 2e-5
NUM_SURFACES = 6
"""A surface depends on its own box alone: the first few tell as much as all."""

DETECTOR_TAPS = {
    "input": "input",
    "fpn_p5": "p5",
    "class_logits": "class_logits",
    "box_regression": "box_deltas",
}
SURFACE_TAPS = {
    "densepose_roi_features": "surface_features",
    "densepose_head": "surface_head",
}
CASES = ["dev", "dev_legacy", "dev_wc2m"]
MAP_NAMES = {"coarse": "coarse_segm", "fine": "fine_segm"}


def _meta_model(name, **options):
    """The modules without memory or arithmetic; the anchors are computed on the CPU."""
    with torch.device("meta"):
        return DensePose(name, replace(PRESETS[name], image_size=(64, 64), **options))


def _rows(golden, name):
    """The stored values of a sampled (D, ...) array that are of the first persons, and where they are."""
    shape = golden.description["outputs"][name]["shape"]
    end = NUM_SURFACES * int(np.prod(shape[1:]))
    index, value = (golden.arrays[f"{name}__{part}"] for part in ("index", "value"))
    is_first = index < end
    assert is_first.sum() > 100
    return index[is_first], value[is_first]


def _row_error(golden, name, found):
    index, expected = _rows(golden, name)
    return float(np.abs(found.reshape(-1)[index] - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module")
def stages(golden_model):
    """Case -> the case, every stage of the model on its picture, and the result."""
    cache = {}

    def run(case):
        if case not in cache:
            golden, model = golden_model("densepose", case)
            task = edgeseg.torch_predictor(model).task
            inputs, geometry = task.preprocess(golden.image)
            tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
            with torch.inference_mode():
                found = model.stages(**tensors)
            outputs = {name: found[name].numpy() for name in model.outputs}
            cache[case] = golden, found, task.postprocess(outputs, geometry)
        return cache[case]

    return run


@pytest.mark.parametrize("case", CASES)
def test_every_stage_is_the_original_s(stages, case):
    golden, found, _ = stages(case)
    proposals = found["proposals"][0].numpy()
    distances = np.abs(golden.arrays["proposals"][:, None] - proposals[None]).max(axis=-1)
    order = distances.argmin(axis=1)
    assert sorted(order) == list(range(len(order)))
    errors = {"proposals": float(distances.min(axis=1).max()) / 100}
    for name, stage in DETECTOR_TAPS.items():
        array = found[stage].numpy()
        is_of_proposals = array.shape[1] == len(order)
        errors[name] = golden.relative_error(name, array[0, order] if is_of_proposals else array)
    if "decoder" in found:
        errors["decoder"] = golden.relative_error("decoder", found["decoder"].numpy())
    for name, stage in SURFACE_TAPS.items():
        errors[name] = _row_error(golden, name, found[stage][0].numpy())
    assert {name: error for name, error in errors.items() if error > TOLERANCE} == {}
    num_raw = len(golden.arrays["raw_boxes"])
    boxes, scores = (found[name][0, :num_raw].numpy() for name in ("boxes", "scores"))
    np.testing.assert_allclose(boxes, golden.arrays["raw_boxes"], atol=2e-3)
    np.testing.assert_allclose(scores, golden.arrays["raw_scores"], atol=2e-5)
    assert (found["scores"][0, num_raw:] == 0).all()


@pytest.mark.parametrize("case", CASES)
def test_the_predictor_s_maps_are_the_original_s(stages, case):
    """The original doubles them, and weighs the logits of the parts, before it stores them."""
    golden, found, _ = stages(case)
    raw = golden.arrays["raw_boxes"][:NUM_SURFACES]
    kept = (raw[:, 2:] > raw[:, :2]).all(axis=1)  # the original stores no others
    doubled = {
        name.removeprefix("surface_"): F.interpolate(
            maps[0], scale_factor=2.0, mode="bilinear", align_corners=False
        )
        for name, maps in found.items()
        if name in _map_names(found)
    }
    for part in ("fine", "coarse"):
        if f"{part}_confidence" in doubled:
            weight = F.softplus(doubled[f"{part}_confidence"]) + 0.01
            doubled[f"{part}_confidence"] = weight
            doubled[part] = doubled[part] * weight
    errors = {}
    for name, maps in doubled.items():
        array = maps[kept].numpy()
        stored = "densepose_" + MAP_NAMES.get(name, name.replace("_conf", "_segm_conf"))
        index, expected = _rows(golden, stored)
        is_there = index < array.size
        difference = array.reshape(-1)[index[is_there]] - expected[is_there]
        errors[name] = float(np.abs(difference).max() / np.abs(expected).max())
    assert len(errors) == len(PRESETS[_name(case)].surface_maps)
    assert {name: error for name, error in errors.items() if error > TOLERANCE} == {}


def _map_names(found):
    names = list(found)
    return names[names.index("surface_head") + 1 :]


def _name(case):
    suffix = {"dev": "", "dev_legacy": "_legacy", "dev_wc2m": "_wc2m"}[case]
    return f"densepose_resnet50_fpn{suffix}"


@pytest.mark.parametrize("case", CASES)
def test_surfaces_of_the_picture_are_the_original_s(stages, case):
    golden, _, result = stages(case)
    assert match_detections(result, golden, box_px=0.01, score=2e-5) == list(range(len(result)))
    raw = golden.arrays["raw_boxes"][:NUM_SURFACES]
    num_surfaces = int((raw[:, 2:] > raw[:, :2]).all(axis=1).sum())
    surfaces = list(result.surfaces)
    assert [surface is not None for surface in surfaces].index(False) == num_surfaces
    assert result.num_without_surface == len(result) - num_surfaces
    check_surfaces(golden, surfaces[:num_surfaces])


@pytest.mark.parametrize("name", SPECS)
def test_every_parameter_has_a_name_in_the_original_and_back(name):
    table = key_table(name)
    for ours in _meta_model(name).state_dict():
        theirs = table.original_from_ours(ours)
        assert theirs is not None, ours
        assert table.ours_from_original(theirs) == ours


@pytest.mark.parametrize("case", CASES)
def test_the_checkpoint_s_keys_and_shapes_are_exactly_ours(case):
    name = _name(case)
    ours = {
        key_table(name).original_from_ours(key): list(value.shape)
        for key, value in _meta_model(name).state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert ours == {key: shape for key, shape, _ in load_case("densepose", case).state}


@pytest.mark.parametrize("name", SPECS)
def test_parameters_are_counted_as_the_original_counts(name):
    """Frozen norms have buffers, not parameters, in the original."""
    model = _meta_model(name)
    frozen = {
        id(parameter)
        for module in model.backbone.modules()
        for parameter in module.parameters(recurse=False)
        if isinstance(module, torch.nn.BatchNorm2d)
    }
    count = sum(p.numel() for p in model.parameters() if id(p) not in frozen)
    assert count == get_spec(name).num_parameters


def test_a_dilation_beyond_the_map_sees_the_centre_alone():
    torch.manual_seed(0)
    pyramid = AtrousPyramid(32)
    x = torch.randn(2, 32, 28, 28)
    far = pyramid.branches[-1]
    assert far.conv.dilation == (56, 56)
    torch.testing.assert_close(far(x), torch.relu(far.norm(far.conv(x))))


def test_only_the_best_detections_get_a_surface():
    with torch.device("meta"):
        model = edgeseg.create_model("densepose_resnet50_fpn_legacy", image_size=64, max_surfaces=7)
        manifest = model_manifest(model)
    surfaces = manifest.graphs["surfaces"]
    assert surfaces.rows.maximum == 7
    assert surfaces.rows.buckets == (4, 7)
    assert manifest.graphs["detect"].output("scores").shape == (1, 100)


def test_a_single_surface_is_no_stage():
    manifest = model_manifest(_meta_model("densepose_resnet50_fpn", max_surfaces=1))
    assert list(manifest.graphs) == ["main"]
    shapes = {spec.name: spec.shape for spec in manifest.outputs}
    assert shapes["scores"] == (1, 100)
    assert shapes["surface_coarse"] == (1, 1, 2, 56, 56)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "fcn"}, "head 'fcn' found, expected one of v1convx, deeplab"),
        ({"uv_confidence": "x"}, "uv_confidence 'x' found, expected one of none, iid_iso"),
        ({"coarse_channels": 1}, "coarse_channels 1 found, expected at least 2"),
        ({"max_surfaces": 0}, "max_surfaces 0 found, expected at least 1"),
        ({"surface_pool": 0}, "surface_pool 0 found, expected at least 1"),
        ({"num_parts": 256}, "num_parts 256 found, expected 1 to 255"),
        (
            {"head": "deeplab", "surface_channels": 40},
            "surface_channels 40 found, expected a multiple of 32, at least 64",
        ),
        ({"head": "deeplab", "decoder_channels": 32}, "decoder_channels 32 found, expected a mul"),
        ({"mask_channels": 256}, "options mask_channels found"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        edgeseg.create_model("densepose_resnet50_fpn", **options)
