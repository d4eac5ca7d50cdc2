"""VPSNet against the recorded results of the original, stage by stage and frame by frame."""

import numpy as np
import pytest
import torch
from vpsnet_cases import load_clip

import edgeseg
from edgeseg.models import model_manifest
from edgeseg.models.layers.anchors import once_rounded_anchors
from edgeseg.models.layers.rpn import AnchorGrid
from edgeseg.models.vpsnet.config import PRESETS
from edgeseg.models.vpsnet.model import CARRIED, VPSNet
from edgeseg.models.vpsnet.spec import SPECS, key_table
from edgeseg_runtime.tasks import create_task
from edgeseg_runtime.tasks.inputs import PictureInput
from edgeseg_runtime.tasks.pixel_contest import Contenders, hold_contest, nearest_source

NAME = "vpsnet_fusetrack_cityscapes"
TOLERANCE = 1e-4
MAX_DIFFERENT = 5
"""Pixels of a frame where two channels are as good as equal."""
IN_EVERY_FRAME = {"flow": "flow", "flow_fine": "flow_residual"}
"""Array of a frame -> stage."""
IN_THE_SECOND = {
    "input": "input",
    "flownet2_flownetc": "flow_c",
    "flownet2_flownets_1": "flow_s1",
    "flownet2_flownets_2": "flow_s2",
    "flownet2_flownets_d": "flow_sd",
    "flownet2_flow": "flow_full",
    "gathered": "gathered",
    "tcea": "joint",
    "fused_p2": "fused_p2",
    "fcn_score": "semantic_logits",
    **{f"rpn_cls_p{level}": f"rpn_logits_p{level}" for level in range(2, 7)},
    **{f"rpn_reg_p{level}": f"rpn_deltas_p{level}" for level in range(3, 7)},
}
IN_ROWS = {"cls_score": "class_logits", "bbox_pred": "box_deltas"}
"""Arrays with a row for each proposal."""
STATISTICS = [
    *(f"c{level}" for level in range(2, 6)),
    *(f"p{level}" for level in range(2, 7)),
    *(f"fused_p{level}" for level in range(2, 7)),
]
SMALL = {
    "backbone": "small",
    "backbone_channels": (8, 8, 8, 16),
    "fpn_channels": 16,
    "flow_net": "small",
    "flow_widths": (8, 8, 16),
    "correction_widths": (8, 8, 8),
    "semantic_channels": (32, 32, 32),
    "rpn_pre_nms_top_n": 60,
    "rpn_post_nms_top_n": 40,
    "box_fc_channels": 16,
    "embedding_channels": 16,
    "mask_num_convs": 1,
    "mask_channels": 16,
    "max_detections": 10,
    "image_size": (64, 128),
}


@pytest.fixture(scope="module")
def clip():
    """The model, the pictures and cases of its clip, and every stage of each frame, state carried along."""
    pictures, cases = load_clip()
    size = cases[1].description["outputs"]["input"]["shape"][2:]
    model = edgeseg.create_model(NAME, weights=cases[0].weights(), image_size=tuple(size))
    fit = PictureInput(model_manifest(model))
    found = []
    with torch.inference_mode():
        for picture in pictures:
            inputs = {name: torch.from_numpy(value) for name, value in fit(picture)[0].items()}
            if not found:
                state = model.graph_stages("seed", **inputs)
            before = {f"before_{name}": state[name] for name in CARRIED}
            state = model.graph_stages("main", **inputs, **before)
            found.append(state)
    return model, pictures, cases, found


def _errors(golden, stages, taps):
    errors = {name: golden.relative_error(name, stages[stage]) for name, stage in taps.items()}
    return {name: error for name, error in errors.items() if error > TOLERANCE}


def test_every_stage_of_every_frame_is_the_original_s(clip):
    _, _, cases, found = clip
    for golden, stages in zip(cases, found, strict=True):
        assert _errors(golden, stages, IN_EVERY_FRAME) == {}
    assert _errors(cases[1], found[1], IN_THE_SECOND) == {}


def test_features_have_the_original_s_statistics(clip):
    _, _, cases, found = clip
    for golden, stages in zip(cases, found, strict=True):
        for expected, name in zip(golden.arrays["feature_stats"], STATISTICS, strict=True):
            x = stages[name].double()
            values = [float(v) for v in (x.mean(), x.std(correction=0), x.min(), x.max())]
            np.testing.assert_allclose(
                values, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max(), err_msg=name
            )


def test_proposals_and_their_rows_are_the_original_s(clip):
    """In the same order."""
    _, _, cases, found = clip
    for number, (golden, stages) in enumerate(zip(cases, found, strict=True)):
        expected = golden.arrays["proposals"][:, :4]
        rows = stages["proposals"][0].numpy()
        np.testing.assert_allclose(rows[: len(expected)], expected, rtol=0, atol=5e-3)
        assert (rows[len(expected) :] == 0).all()
        for name, stage in IN_ROWS.items() if number == 1 else [("cls_score", "class_logits")]:
            values = stages[stage][0, : len(expected)]
            assert golden.relative_error(name, values) < TOLERANCE, name


def test_detections_are_the_original_s(clip):
    """One to one, in the same order."""
    _, _, cases, found = clip
    for golden, stages in zip(cases, found, strict=True):
        arrays = golden.arrays
        count = len(arrays["det_scores"])
        scores = stages["contender_scores"][0].numpy()
        np.testing.assert_allclose(scores[:count], arrays["det_scores"], rtol=0, atol=1e-4)
        assert (scores[count:] == 0).all()
        assert stages["contender_labels"][0, :count].tolist() == arrays["det_labels"].tolist()
        np.testing.assert_allclose(
            stages["contender_boxes"][0, :count], arrays["det_boxes"][:, 1:], rtol=0, atol=5e-3
        )
    masks = found[1]["contender_masks"][0, : len(cases[1].arrays["mask_logits"])]
    assert cases[1].relative_error("mask_logits", masks) < 5 * TOLERANCE  # boxes differ a little


def test_embeddings_give_the_original_s_products(clip):
    """Of each detection of the second frame with each of the first."""
    _, _, cases, found = clip
    before, now = (
        stages["contender_embeddings"][0, : len(golden.arrays["det_scores"])]
        for golden, stages in zip(cases[:2], found[:2], strict=True)
    )
    products = torch.nn.functional.pad(now @ before.T, (1, 0))
    assert cases[1].relative_error("match_score", products) < TOLERANCE


def test_channels_and_identities_are_the_original_s(clip):
    """The channel of each pixel, the kept detections, and their identities in each frame."""
    model, pictures, cases, found = clip
    task = create_task(model_manifest(model))
    reader = task.open_reader()
    for picture, golden, stages in zip(pictures, cases, found, strict=True):
        _, geometry = task.preprocess(picture)
        outputs = {name: stages[name].numpy() for name in model.outputs}
        rows, num_nonfinite = task.contest.contender_rows(outputs)
        arrays = golden.arrays
        assert (len(rows), num_nonfinite) == (len(arrays["det_scores"]), 0)
        contest = hold_contest(
            outputs["semantic_logits"][0],
            Contenders(
                outputs["contender_boxes"][0][rows],
                (outputs["contender_labels"][0][rows] + 10).tolist(),
                outputs["contender_masks"][0][rows],
            ),
            geometry,
            num_stuff=11,
            has_unknown=False,
        )
        assert list(contest.kept) == arrays["keep"].tolist()
        assert (contest.channels != arrays["pano"]).sum() <= MAX_DIFFERENT
        assert (contest.semantic != arrays["sseg"]).sum() <= MAX_DIFFERENT
        result = reader(outputs, geometry)
        ids = arrays["det_obj_ids"][arrays["keep"]].tolist()
        assert {s.track_id for s in result.segments if s.is_thing} <= set(ids)
        for segment in result.segments:
            if (
                segment.is_thing
            ):  # of all pixels of its channel, but for those that fall the other way
                pixels = nearest_source(arrays["pano"].astype(np.int32), geometry)
                channel = 11 + ids.index(segment.track_id)
                assert ((result.ids == segment.id) != (pixels == channel)).sum() <= MAX_DIFFERENT


def test_anchors_are_the_original_s():
    """mmdetection's; those of UPSNet differ in half of the places."""
    grid = AnchorGrid(cell=once_rounded_anchors)
    expected = {
        4: ((-21, -9, 24, 12), (-14, -14, 17, 17), (-9, -21, 12, 24)),
        8: ((-41, -19, 48, 26), (-28, -28, 35, 35), (-19, -41, 26, 48)),
        16: ((-83, -37, 98, 52), (-56, -56, 71, 71), (-37, -83, 52, 98)),
        32: ((-165, -75, 196, 106), (-112, -112, 143, 143), (-75, -165, 106, 196)),
        64: ((-330, -149, 393, 212), (-224, -224, 287, 287), (-149, -330, 212, 393)),
    }
    for found, (stride, anchors) in zip(grid.anchors((64, 128)), expected.items(), strict=True):
        assert found[:3].tolist() == [list(anchor) for anchor in anchors]
        assert found[3].tolist() == [v + stride * (i % 2 == 0) for i, v in enumerate(anchors[0])]


def test_a_first_frame_is_fused_with_itself(clip):
    """And `stages` is a first frame."""
    model, pictures, _, found = clip
    fit = PictureInput(model_manifest(model))
    with torch.inference_mode():
        inputs = {name: torch.from_numpy(value) for name, value in fit(pictures[0])[0].items()}
        for name, value in model(**inputs).items():
            assert torch.equal(value, found[0][name]), name


def test_the_checkpoint_s_keys_and_shapes_are_exactly_ours(clip):
    _, _, cases, _ = clip
    table, model = key_table(NAME), _meta_model(NAME)
    ours = {
        table.original_from_ours(key): list(value.shape)
        for key, value in model.state_dict().items()
    }
    assert ours == {key: shape for key, shape, _ in cases[0].state}
    for key in model.state_dict():
        assert table.ours_from_original(table.original_from_ours(key)) == key
    parameters = dict(model.named_parameters())
    assert sum(value.numel() for value in parameters.values()) <= SPECS[NAME].num_parameters
    flow_net = sum(v.numel() for key, v in parameters.items() if key.startswith("flow_net."))
    assert flow_net == 162_518_834


def _meta_model(name):
    """The modules without memory or arithmetic."""
    with torch.device("meta"):
        return VPSNet(name, PRESETS[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (96, 128)}, "image_size 96x128 found, .* multiples of 64: use 128x128"),
        ({"flow_net": "pwc"}, "flow_net 'pwc' found, expected one of flownet2, small"),
        ({"flow_widths": (8, 8)}, r"flow_widths \(8, 8\) found, expected 3 positive numbers"),
        ({"semantic_channels": (48, 32, 32)}, "expected multiples of 32"),
        ({"score_thresh": 0.4}, "score_thresh 0.4 found, expected 0.5 to 1"),
        ({"stuff_labels": ()}, "no stuff_labels found"),
        ({"track_frames": -1}, "track_frames -1 found, expected 0 or more"),
        ({"num_classes": 1, "labels": ()}, "num_classes 1 found, expected at least 2"),
        ({"anchor_sizes": (8, 16)}, "expected 5 positive sizes"),
        ({"max_detections": 0}, "max_detections 0 found, expected 1 to"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        edgeseg.create_model(NAME, **{**SMALL, **options})


def test_an_image_of_another_size_is_refused():
    model = edgeseg.create_model(NAME, **SMALL)
    with pytest.raises(ValueError, match=r"image of shape \(1, 64, 64, 3\) found, expected"):
        model(torch.zeros(1, 64, 64, 3, dtype=torch.uint8), torch.tensor([[64, 64]]))
