"""CornerNet and CenterNet's triplets against the recorded results of the originals, stage by stage."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from cornernet_cases import NAMES, golden_model, match
from cornernet_cases import small_model as small
from golden import load_case

import edgeseg
from edgeseg.models import get_spec, model_manifest
from edgeseg.models.cornernet.config import PRESETS
from edgeseg.models.cornernet.model import CornerNet
from edgeseg.models.cornernet.spec import SPECS, key_table
from edgeseg.models.layers.running_max import DIRECTIONS, corner_pool
from edgeseg_runtime.picture.geometry import kept_scale

# A float64 run of the originals differs by 5e-6; a permuted layer deep inside by 1e-3.
TOLERANCE = 2e-5
OFFICIAL = [name for name in SPECS if not name.endswith("_tiny")]
TAPS = {
    "input": "input",
    "cnv": "features",
    "tl_cnv": "top_left_pool",
    "br_cnv": "bottom_right_pool",
    "ct_cnv": "center_pool",
    "tl_heat": "top_left_heatmap",
    "br_heat": "bottom_right_heatmap",
    "ct_heat": "center_heatmap",
    "tl_tag": "top_left_embedding",
    "br_tag": "bottom_right_embedding",
    "tl_regr": "top_left_offset",
    "br_regr": "bottom_right_offset",
    "ct_regr": "center_offset",
}


def meta_model(name, **options):
    """The modules without memory or arithmetic."""
    with torch.device("meta"):
        return CornerNet(name, replace(PRESETS[name], **options))


def own_state(model):
    """Shapes of a model's parameters in the original's names."""
    return {
        key_table(model.name).original_from_ours(key): list(value.shape)
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


@pytest.mark.slow
@pytest.mark.parametrize(("system", "case"), NAMES)
def test_every_stage_and_result_is_the_original_s(system, case):
    golden, model = golden_model(system, case)
    predictor = edgeseg.torch_predictor(model)
    inputs, geometry = predictor.task.preprocess(golden.image)
    with torch.inference_mode():
        stages = model.stages(torch.from_numpy(inputs["image"]))
    found = {name: stage.numpy() for name, stage in stages.items()}
    recorded = [tap for tap in TAPS if tap in golden.description["outputs"]]
    errors = {tap: golden.relative_error(tap, found[TAPS[tap]]) for tap in recorded}
    assert {tap: error for tap, error in errors.items() if error > TOLERANCE} == {}

    cell = golden.input_size[0] / found["top_left_heatmap"].shape[2]
    cells = found["top_left_heatmap"].shape[3]
    count = model.config.max_pairs
    for view in range(len(found["top_left_heatmap"])):
        expected = golden.arrays[f"decoded_{view}"]
        rows = slice(view * count, view * count + len(expected))
        boxes = found["boxes"][0, rows] / cell
        if view:
            boxes[:, [0, 2]] = cells - boxes[:, [2, 0]]
        labels, scores = found["labels"][0, rows], found["scores"][0, rows]
        match(boxes, labels, scores, expected, box=1e-3, score=2e-5)
        assert not found["scores"][0, rows.stop : (view + 1) * count].any()

    outputs = {name: found[name] for name in model.outputs}
    result = predictor.task.postprocess(outputs, geometry)
    final = golden.arrays["final"]
    match(result.boxes, result.labels, result.scores, final, box=0.01, score=1e-4)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("size", [1, 2, 5, 16, 24, 40, 128])
def test_corner_pooling_is_a_running_maximum(direction, size):
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(size))
    axis, from_end = DIRECTIONS[direction]
    along = x.flip(axis) if from_end else x
    expected = along.cummax(axis).values
    expected = expected.flip(axis) if from_end else expected
    torch.testing.assert_close(corner_pool(x, direction), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("system", "case"), NAMES)
def test_the_checkpoint_s_keys_and_shapes_are_exactly_ours(system, case):
    name = NAMES[system, case]
    table = key_table(name)
    theirs = {
        bare: shape
        for key, shape, _ in load_case(system, case).state
        if not table.is_ignored(bare := key.removeprefix("module."))
        and not key.endswith("num_batches_tracked")
    }
    assert own_state(meta_model(name)) == theirs


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_parameter_has_a_name_in_the_original_and_back(name):
    table = key_table(name)
    for ours in meta_model(name).state_dict():
        theirs = table.original_from_ours(ours)
        assert theirs is not None, ours
        assert table.ours_from_original(theirs) == ours


def test_cornernet_lite_s_names_of_cornernet_load_as_well():
    table = key_table("cornernet_hourglass104")
    for theirs, ours in {
        "hg.pre.1.skip.0.weight": "backbone.stem.1.shortcut.conv.weight",
        "hg.hgs.1.low2.low2.up1.0.bn2.bias": "backbone.hourglasses.1.inner.inner.skip.0.conv2.norm.bias",
        "hg.inters_.0.0.weight": "backbone.merge_input.conv.weight",
        "tl_modules.1.p1_conv1.conv.weight": "pools.top_left.first.conv.weight",
        "br_offs.1.1.bias": "heads.bottom_right_offset.predictor.bias",
    }.items():
        assert table.ours_from_original(theirs) == ours
        assert theirs in table.spellings([ours])
    assert table.is_ignored("tl_modules.0.p1_conv1.conv.weight")


@pytest.mark.parametrize("name", SPECS)
def test_parameters_are_counted(name):
    count = sum(parameter.numel() for parameter in meta_model(name).parameters())
    assert count == get_spec(name).num_parameters


@pytest.mark.parametrize("name", OFFICIAL)
def test_both_orientations_of_coco_s_pictures_keep_their_scale(name):
    model = meta_model(name)
    variants = {key: model_manifest(each) for key, each in get_spec(name).variants(model).items()}
    assert list(variants) == ["portrait"]
    shapes = [model_manifest(model).preprocess, variants["portrait"].preprocess]
    for size in ((480, 640), (640, 480), (427, 640), (500, 500)):
        assert max(kept_scale(size, shape) for shape in shapes) == 1


def test_the_other_orientation_has_the_same_parameters():
    model = small(image_size=(63, 127))
    (portrait,) = get_spec("cornernet_squeeze").variants(model).values()
    assert portrait.config.image_size == (127, 63)
    for key, value in model.state_dict().items():
        assert portrait.state_dict()[key].data_ptr() == value.data_ptr(), key
    assert get_spec("cornernet_squeeze").variants(small(image_size=(63, 63))) == {}


@pytest.mark.parametrize("name", SPECS)
def test_the_manifest_tells_candidates_and_what_is_made_of_them(name):
    manifest = model_manifest(meta_model(name))
    config = PRESETS[name]
    shapes = {output.name: output.shape for output in manifest.outputs}
    is_triplet = config.kind == "triplets"
    assert shapes["boxes"] == (1, config.num_candidates, 4)
    assert shapes.get("centers") == ((1, config.num_centers, 4) if is_triplet else None)
    assert manifest.preprocess.resize == "center_odd"
    assert manifest.postprocess["center_check"] is is_triplet
    assert manifest.postprocess["soft_nms"] == "gaussian"
    assert len(manifest.labels) == len(manifest.category_ids) == config.num_classes


def maps_of(model, corners, *, kind="corners"):
    """Maps of the model's size with a corner pair for each (label, x1, y1, x2, y2, logit, tag)."""
    height, width = model.config.map_size
    maps = {
        name: torch.full((1, count, height, width), -200.0 if "heatmap" in name else 0.0)
        for name, count in model.config.head_maps.items()
    }
    for label, x1, y1, x2, y2, logit, tag in corners:
        for point, x, y in (("top_left", x1, y1), ("bottom_right", x2, y2)):
            maps[f"{point}_heatmap"][0, label, y, x] = logit
            maps[f"{point}_embedding"][0, 0, y, x] = tag
            maps[f"{point}_offset"][0, :, y, x] = torch.tensor([0.25, 0.5])
    return maps


def test_corners_of_one_object_become_its_box():
    model = small(mirror_test=False)
    maps = maps_of(model, [(1, 2, 3, 8, 9, 2.0, 1.0), (1, 4, 1, 12, 6, 1.0, 3.0)])
    results = model.decode(maps)
    assert results["labels"][0, :3].tolist() == [1, 1, 0]
    np.testing.assert_allclose(results["scores"][0, :3], [0.8807971, 0.7310586, 0], atol=1e-6)
    expected = np.array([2.25, 3.5, 8.25, 9.5]) * 63 / 16
    np.testing.assert_allclose(results["boxes"][0, 0], expected, rtol=1e-6)
    assert not results["boxes"][0, 2:].any()


@pytest.mark.parametrize(
    ("change", "is_found"),
    [
        pytest.param({}, True, id="as-it-is"),
        pytest.param({"tag": 0.5}, True, id="embeddings-at-the-limit"),
        pytest.param({"tag": 0.51}, False, id="embeddings-too-far-apart"),
        pytest.param({"label": 2}, False, id="of-another-class"),
        pytest.param({"x": -1.0}, False, id="in-the-wrong-order"),
        pytest.param({"tag": float("nan")}, False, id="not-a-number"),
    ],
)
def test_corners_pair_by_class_embedding_and_order(change, is_found):
    model = small(mirror_test=False)
    maps = maps_of(model, [(1, 4, 4, 4, 8, 2.0, 0.0)])
    if "label" in change:
        maps["bottom_right_heatmap"][0, [1, 2]] = maps["bottom_right_heatmap"][0, [2, 1]]
    maps["bottom_right_embedding"][0, 0, 8, 4] = change.get("tag", 0.0)
    maps["bottom_right_offset"][0, 0, 8, 4] += change.get("x", 0.0)
    assert (model.decode(maps)["scores"] > 0).sum().item() == is_found


def test_the_mirrored_picture_s_boxes_and_centres_are_mirrored_back():
    model = small("triplets")
    there = maps_of(model, [(1, 2, 3, 8, 9, 2.0, 1.0)])
    there["center_heatmap"][0, 2, 6, 5] = 1.0
    there["center_offset"][0, 0, 6, 5] = 0.5
    nothing = maps_of(model, [])
    maps = {name: torch.cat([nothing[name], there[name]]) for name in there}
    results = model.decode(maps)
    cell = 63 / 16
    np.testing.assert_allclose(
        results["boxes"][0, 20], np.array([16 - 8.25, 3.5, 16 - 2.25, 9.5]) * cell, rtol=1e-6
    )
    center = results["centers"][0, 10]
    np.testing.assert_allclose(center[:2], [(16 - 5.5) * cell, 6 * cell], rtol=1e-6)
    assert center[2:].tolist() == [pytest.approx(0.7310586), 2]


@pytest.mark.parametrize("kind", ["corners", "triplets"])
def test_a_mirrored_picture_gives_mirrored_results(kind):
    """Of the maps alone that would hold for any network; here both views change places."""
    model = small(kind)
    image = torch.randint(0, 255, (1, 63, 63, 3), dtype=torch.uint8)
    with torch.inference_mode():
        found, mirrored = model.stages(image), model.stages(image.flip(2))
    torch.testing.assert_close(found["top_left_heatmap"], mirrored["top_left_heatmap"].flip(0))
    torch.testing.assert_close(found["scores"], mirrored["scores"].roll(20, 1))


def test_without_the_mirror_test_one_view_is_seen():
    model = small(mirror_test=False)
    with torch.inference_mode():
        stages = model.stages(torch.zeros(2, 63, 63, 3, dtype=torch.uint8))
    assert stages["input"].shape == (2, 3, 63, 63)
    assert stages["boxes"].shape == (2, 20, 4)


def test_of_a_batch_each_picture_keeps_its_own_mirror_image():
    model = small("triplets")
    images = torch.randint(0, 255, (3, 63, 63, 3), dtype=torch.uint8)
    with torch.inference_mode():
        together = model(images)
        for row, image in enumerate(images):
            for name, alone in model(image[None]).items():
                torch.testing.assert_close(together[name][row : row + 1], alone)


def test_a_heat_map_that_is_not_a_number_gives_no_candidate():
    model = small(mirror_test=False)
    maps = maps_of(model, [(0, 1, 1, 5, 5, 2.0, 0.0), (1, 6, 6, 9, 9, float("nan"), 0.0)])
    scores = model.decode(maps)["scores"][0]
    assert scores.isfinite().all()
    assert (scores > 0).sum() == 1


@pytest.mark.parametrize("size", [(63, 127), (127, 63), (31, 95)])
def test_any_size_of_a_multiple_less_one_will_do(size):
    model = small(image_size=size)
    with torch.inference_mode():
        results = model(torch.zeros(1, *size, 3, dtype=torch.uint8))
    assert results["boxes"].shape == (1, 40, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (512, 511)}, "image_size 512x511 found, .*multiples of 128 less one: use 639x511"),
        ({"image_size": (640, 480)}, "use 767x511"),
        ({"kind": "points"}, "kind 'points' found, expected one of corners, triplets"),
        ({"block": "dense"}, "block 'dense' found"),
        ({"soft_nms": "linear"}, "soft_nms 'linear' found, expected one of gaussian, original"),
        ({"num_stacks": 3}, "num_stacks 3 found, expected 1 or 2"),
        ({"head_kernel": 5}, "head_kernel 5 found, expected 1 or 3"),
        ({"widths": (8, 8)}, "as many of one as of the other"),
        ({"num_blocks": (2, 2, 2, 2, 0, 4)}, "num_blocks 0 found, expected at least 1"),
        ({"pool_width": 0}, "pool_width 0 found"),
        ({"top_k": 0}, "top_k 0 found, expected 1 to 3840"),
        ({"top_k": 20}, "max_pairs 1000 found, expected 1 to 400 for the pairs of 20 corners"),
        ({"max_pairs": 4000}, "max_pairs 4000 found, expected 1 to 3840"),
        ({"max_pairs": 40, "mirror_test": False}, "max_detections 100 found, expected 1 to 40"),
        ({"embedding_threshold": float("nan")}, "embedding_threshold nan found"),
        ({"labels": ("a", "b"), "num_classes": 3}, "labels with 2 entries found, expected 3"),
        ({"std": (1.0, 0.0, 1.0)}, "expected positive grey levels"),
        ({"nms": 0.3}, "options nms found"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        edgeseg.create_model("cornernet_hourglass104", **options)
