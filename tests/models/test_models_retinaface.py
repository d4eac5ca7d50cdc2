"""RetinaFace against the recorded results of the original, stage by stage, and its further branches."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden import load_case
from retinaface_cases import tied_model

import edgeseg
from edgeseg.models import model_manifest
from edgeseg.models.checkpoint import CheckpointError
from edgeseg.models.retinaface.config import PRESETS
from edgeseg.models.retinaface.model import (
    RetinaFace,
    best_first,
    decode_points,
    encode_points,
    nms_plus_one,
)
from edgeseg.models.retinaface.spec import SPECS, key_table
from edgeseg_bench.datasets import open_dataset

# float32 against float64 moves the original's boxes by 2e-4 pixels and its scores by 3e-6.
TOLERANCE = 1e-5
BOX_PX, SCORE = 1e-3, 1e-5

TAPS = {
    "input": "input",
    "fpn0": "p3",
    "fpn1": "p4",
    "fpn2": "p5",
    "ssh0": "context_p3",
    "loc": "box_deltas",
    "cls_logits": "class_logits",
    "landms": "landmark_deltas",
}
ALL = ("box", "landmarks", "gender", "mesh")


@pytest.fixture(scope="module")
def golden():
    return load_case("retinaface", "dev")


@pytest.fixture(scope="module")
def model(golden):
    return edgeseg.create_model(
        "retinaface_mobilenet025", weights=golden.weights(), image_size=golden.input_size
    )


@pytest.fixture(scope="module")
def stages(golden, model):
    with torch.inference_mode():
        found = model.stages(torch.from_numpy(golden.image)[None])
    return {name: stage.numpy() for name, stage in found.items()}


def test_every_stage_is_the_original_s(golden, stages):
    errors = {name: golden.relative_error(name, stages[stage]) for name, stage in TAPS.items()}
    assert {name: error for name, error in errors.items() if error > TOLERANCE} == {}


def test_anchors_are_the_original_s(golden, model):
    """The original's are centre and size as shares of the picture."""
    low, high = np.split(model.anchors.numpy(), 2, axis=1)
    sides = np.tile(golden.input_size[::-1], 2)
    anchors = np.concatenate([(low + high) / 2, high - low], axis=1) / sides
    np.testing.assert_allclose(anchors, golden.arrays["priors"], atol=1e-6)


def test_faces_are_the_original_s_in_its_order(golden, stages):
    expected = golden.arrays["dets"]
    count = len(expected)
    assert (stages["scores"][0] > 0).sum() == count
    np.testing.assert_allclose(stages["boxes"][0, :count], expected[:, :4], atol=BOX_PX)
    np.testing.assert_allclose(stages["scores"][0, :count], expected[:, 4], atol=SCORE)
    landmarks = stages["landmarks"][0, :count].reshape(count, 10)
    np.testing.assert_allclose(landmarks, expected[:, 5:], atol=BOX_PX)
    assert (stages["labels"][0, :count] == 1).all()
    for name in ("boxes", "scores", "labels", "landmarks"):
        assert not stages[name][0, count:].any()


def test_faces_of_the_picture_are_the_original_s(golden, model):
    result = edgeseg.torch_predictor(model)(golden.image)
    expected = golden.arrays["dets"]
    assert len(result) == len(expected)
    np.testing.assert_allclose(result.boxes, expected[:, :4], atol=BOX_PX)
    np.testing.assert_allclose(result.landmarks.reshape(-1, 10), expected[:, 5:], atol=BOX_PX)
    assert {result.label_names[label] for label in result.labels} == {"face"}


def test_fewer_candidates_are_the_best_ones(golden, model):
    """365 scores are above the threshold; with fewer candidates faces are missing, none differ."""
    few = edgeseg.create_model(
        "retinaface_mobilenet025",
        weights=golden.weights(),
        image_size=golden.input_size,
        top_k=40,
        keep_top_k=5,
    )
    with torch.inference_mode():
        found = few(torch.from_numpy(golden.image)[None])
    np.testing.assert_allclose(found["boxes"][0], golden.arrays["dets"][:5, :4], atol=BOX_PX)


def greedy_plus_one(boxes, scores, iou_threshold):
    """utils/nms/py_cpu_nms.py in words: widths, heights and intersections count both ends."""
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    order, kept = list(np.argsort(-scores, kind="stable")), []
    while order:
        best, *order = order
        kept.append(best)
        rest = np.array(order, int)
        width = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest]) + 1
        height = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest]) + 1
        inter = np.maximum(width, 0) * np.maximum(height, 0)
        iou = inter / (areas[best] + areas[rest] - inter)
        order = [other for other, value in zip(order, iou, strict=True) if value <= iou_threshold]
    return kept


@pytest.mark.parametrize("seed", range(6))
def test_suppression_counts_pixels_as_the_original(seed):
    """Small boxes, where one pixel matters: the rule without it keeps others."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 80, (200, 2)) / 4
    boxes = np.concatenate([low, low + rng.integers(1, 24, (200, 2)) / 4], axis=1)  # exact floats
    boxes, scores = boxes.astype(np.float32), rng.random(200).astype(np.float32)
    indices, valid = nms_plus_one(
        torch.from_numpy(boxes)[None],
        torch.from_numpy(scores)[None],
        iou_threshold=0.4,
        max_output=200,
        score_threshold=0.0,
    )
    found = indices[valid].tolist()
    assert found == greedy_plus_one(boxes, scores, np.float32(0.4))
    shorter = boxes - np.array([0, 0, 1, 1], np.float32)
    assert found != greedy_plus_one(shorter, scores, np.float32(0.4))


@pytest.mark.parametrize(
    ("size", "maps"),
    [((240, 320), [(30, 40), (15, 20), (8, 10)]), ((300, 236), [(38, 30), (19, 15), (10, 8)]),
     ((33, 47), [(5, 6), (3, 3), (2, 2)]), ((32, 32), [(4, 4), (2, 2), (1, 1)])],
)  # fmt: skip
def test_any_size_has_an_anchor_for_every_place_of_its_maps(size, maps):
    model = edgeseg.create_model("retinaface_mobilenet025", image_size=size)
    with torch.inference_mode():
        stages = model.stages(torch.zeros(1, *size, 3, dtype=torch.uint8))
    assert [tuple(stages[f"p{level}"].shape[-2:]) for level in (3, 4, 5)] == maps
    assert len(model.anchors) == stages["box_deltas"].shape[1] == 2 * sum(h * w for h, w in maps)


def sure_faces(picture, image_size):
    """Boxes with a score above 0.8, from left to right, of a network that keeps the picture's size."""
    model = edgeseg.create_model(
        "retinaface_tiny", weights="shapes", image_size=image_size, resize="original"
    )
    result = edgeseg.torch_predictor(model)(picture)
    boxes = result.boxes[result.scores > 0.8]
    return boxes[boxes[:, 0].argsort()]


def test_a_smaller_picture_keeps_its_scale_and_a_larger_one_is_shrunk():
    """What lies beside the picture is the mean, which is as good as nothing."""
    picture = open_dataset("shapes", kind="faces")[0].image
    height, width = picture.shape[:2]
    expected = sure_faces(picture, (height, width))
    assert len(expected) > 0
    padded = sure_faces(picture, (height + 45, width + 70))
    np.testing.assert_allclose(padded, expected, atol=3)
    twice = np.repeat(np.repeat(picture, 2, axis=0), 2, axis=1)
    np.testing.assert_allclose(sure_faces(twice, (height, width)) / 2, expected, atol=3)


def test_other_anchor_sizes_change_heads_and_anchors():
    sizes = ((10, 20, 40), (64,), (128, 256))
    model = edgeseg.create_model(
        "retinaface_mobilenet025", image_size=64, min_sizes=sizes, steps=(8, 16, 32)
    )
    assert [head.out_channels for head in model.box_heads] == [12, 4, 8]
    assert model.anchors[:3].tolist() == [[-1, -1, 9, 9], [-6, -6, 14, 14], [-16, -16, 24, 24]]
    assert (model.anchors[3] - model.anchors[0]).tolist() == [8, 0, 8, 0]
    with torch.inference_mode():
        assert model(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))["boxes"].shape == (2, 750, 4)


@pytest.mark.parametrize(
    "branches",
    [("box",), ("box", "landmarks"), ("box", "gender"), ("mesh", "box"), ALL],
    ids="+".join,
)
def test_a_model_has_the_branches_that_are_asked_for(branches):
    model = edgeseg.create_model("retinaface_tiny", image_size=64, branches=branches)
    shapes = {"landmarks": (5, 2), "gender": (), "mesh": (169, 3)}
    with torch.inference_mode():
        found = model(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
    assert set(found) == {"boxes", "scores", "labels", *(set(branches) - {"box"})}
    for name in set(branches) - {"box"}:
        assert found[name].shape == (2, 20, *shapes[name])


@pytest.mark.parametrize("dimensions", [2, 3])
def test_points_survive_the_round_trip(dimensions):
    torch.manual_seed(dimensions)
    anchors = torch.rand(50, 2) * 100
    anchors = torch.cat([anchors, anchors + 8 + torch.rand(50, 2) * 60], dim=1)
    points = torch.rand(50, 7, dimensions) * 200 - 50
    shifts = encode_points(points, anchors, variance=0.1)
    torch.testing.assert_close(decode_points(shifts, anchors, variance=0.1), points)
    assert not shifts.isclose(encode_points(points, anchors)).all()


def test_twelve_coefficients_hold_every_pose_of_a_rigid_head():
    """The vertices are linear in the entries of scaled rotation and shift: nothing is lost."""
    rng = np.random.default_rng(0)
    head = rng.normal(size=(40, 3))
    model = edgeseg.create_model(
        "retinaface_tiny", image_size=32, num_vertices=40, mesh_coefficients=12
    )
    basis = np.zeros((40, 3, 12), np.float32)
    for row in range(3):
        basis[:, row, 3 * row : 3 * row + 3] = head
        basis[:, row, 9 + row] = 1
    model.mesh_decoder.weight.data = torch.from_numpy(basis.reshape(120, 12))
    model.mesh_decoder.bias.data.zero_()
    for _ in range(10):
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        pose, shift = rng.uniform(0.2, 2) * rotation, rng.normal(size=3)
        coefficients = np.concatenate([pose.reshape(-1), shift]).astype(np.float32)
        with torch.inference_mode():
            found = model.mesh_shifts(torch.from_numpy(coefficients)[None, None])[0, 0]
        np.testing.assert_allclose(found, head @ pose.T + shift, atol=1e-5)


def test_an_untrained_model_finds_no_face():
    model = edgeseg.create_model("retinaface_mobilenet025", image_size=64)
    with torch.inference_mode():
        stages = model.stages(torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8))
    scores = stages["class_logits"].softmax(-1)[..., 1]
    assert 0.002 < scores.mean() < 0.02
    assert not stages["scores"].any()


def test_scores_that_are_no_number_are_no_faces():
    model = edgeseg.create_model("retinaface_tiny", image_size=64)
    with torch.no_grad():
        model.class_heads[0].bias[1] = torch.nan
        model.class_heads[1].bias.copy_(torch.tensor([-9.0, 9.0, 9.0, -9.0]))
    with torch.inference_mode():
        found = model(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    assert (found["scores"][0] > 0.9).any()
    assert all(torch.isfinite(value).all() for value in found.values())


def test_of_two_boxes_with_the_very_same_score_the_later_one_is_kept():
    model = tied_model()
    with torch.inference_mode():
        found = model(torch.zeros(1, 64, 96, 3, dtype=torch.uint8))
    assert found["scores"][0].tolist() == [0.5] * 12
    boxes, anchors = found["boxes"][0], model.anchors
    torch.testing.assert_close(boxes[0], anchors[-1])
    shift = 0.1 * (boxes[:, 2:] - boxes[:, :2])
    centres = (boxes[:, 2:] + boxes[:, :2]) / 2
    is_second = (found["landmarks"][0] - (centres + shift)[:, None]).abs().amax((1, 2)) < 1e-3
    assert is_second.all(), "of the two equal anchors of a place the second is the later one"


@pytest.mark.parametrize("count", [1, 4, 6])
def test_the_best_of_equal_scores_come_from_behind(count):
    scores = torch.tensor([[0.2, 0.9, 0.2, 0.5, 0.9, 0.0]])
    best, places = best_first(scores, count)
    assert places[0].tolist() == [4, 1, 3, 2, 0, 5][:count]
    assert torch.equal(best, scores.gather(1, places))


@pytest.mark.parametrize("winner", [0, 1], ids=["none", "maximum"])
def test_no_face_and_the_maximum_come_in_the_same_shapes(winner):
    model = edgeseg.create_model("retinaface_tiny", image_size=64, nms_threshold=1.0)
    with torch.no_grad():
        for head in model.class_heads:
            head.bias.view(-1, 2)[:, winner] += 50
    image = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        for _ in range(2):
            found = model(image)
            assert found["mesh"].shape == (2, 20, 169, 3)
            assert ((found["scores"] > 0) == bool(winner)).all()


def test_a_batch_gives_what_its_pictures_give_alone():
    torch.manual_seed(0)
    model = edgeseg.create_model("retinaface_tiny", image_size=(64, 96))
    image = torch.randint(0, 256, (3, 64, 96, 3), dtype=torch.uint8)
    with torch.inference_mode():
        together = model(image)
        for row in range(3):
            for name, value in model(image[row : row + 1]).items():
                torch.testing.assert_close(together[name][row], value[0], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", ["retinaface_mobilenet025", "retinaface_resnet50"])
def test_every_parameter_has_a_name_in_the_original_and_back(name):
    model = meta_model(name)
    table = key_table(model.name)
    for ours in model.state_dict():
        theirs = table.original_from_ours(ours)
        assert theirs is not None, ours
        assert table.ours_from_original(theirs) == ours


def test_the_checkpoint_s_keys_and_shapes_are_exactly_ours(golden):
    model = meta_model("retinaface_mobilenet025")
    ours = {
        key_table("retinaface_mobilenet025").original_from_ours(key): list(value.shape)
        for key, value in model.state_dict().items()
    }
    assert ours == {key: shape for key, shape, _ in golden.state}


def test_names_of_the_resnet_are_the_original_s():
    """As torchvision's, below `body.`; the rest is that of the small model, with other widths."""
    table = key_table("retinaface_resnet50")
    theirs = {
        table.original_from_ours(key) for key in meta_model("retinaface_resnet50").state_dict()
    }
    assert {"body.conv1.weight", "body.bn1.running_var", "body.layer4.2.bn3.num_batches_tracked",
            "body.layer1.0.downsample.0.weight", "ssh3.conv7x7_3.1.bias",
            "LandmarkHead.2.conv1x1.bias"} <= theirs  # fmt: skip
    assert not any(re.match(r"body\.(fc|layer5)", key) for key in theirs)


def test_a_checkpoint_of_several_gpus_loads(golden, model, tmp_path):
    weights = {f"module.{key}": torch.from_numpy(x) for key, x in golden.weights().items()}
    torch.save({"state_dict": weights, "epoch": 250}, tmp_path / "mobilenet0.25_Final.pth")
    loaded = edgeseg.create_model(
        "retinaface_mobilenet025", weights=tmp_path / "mobilenet0.25_Final.pth", image_size=64
    )
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def with_landmarks(golden, number):
    """Return the golden weights with heads for another number of landmarks."""
    rng = np.random.default_rng(0)
    state = dict(golden.weights())
    for key, value in state.items():
        if key.startswith("LandmarkHead"):
            shape = (2 * 2 * number, *value.shape[1:])
            state[key] = rng.normal(0, 0.1, shape).astype(np.float32)
    return state


@pytest.mark.parametrize("number", [1, 4, 10])
def test_the_number_of_landmarks_is_that_of_the_checkpoint(golden, model, number):
    weights = with_landmarks(golden, number)
    other = edgeseg.create_model("retinaface_mobilenet025", weights=weights, image_size=(64, 96))
    assert other.config.num_landmarks == number
    manifest = model_manifest(other)
    assert manifest.outputs[3].shape == (1, 750, number, 2)
    assert len(set(manifest.keypoint_names)) == number
    assert "nose" not in manifest.keypoint_names
    picture = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    found = edgeseg.torch_predictor(other)(picture)
    assert found.landmarks.shape == (len(found), number, 2)
    assert found.draw(picture).shape == picture.shape
    (heads,) = (head.weight for head in other.landmark_heads[:1])
    np.testing.assert_array_equal(heads.detach(), weights["LandmarkHead.0.conv1x1.weight"])


def test_a_number_of_landmarks_that_is_given_must_be_the_checkpoint_s(golden):
    with pytest.raises(CheckpointError, match="It fits with --set num_landmarks=4"):
        edgeseg.create_model(
            "retinaface_mobilenet025", weights=with_landmarks(golden, 4), num_landmarks=5
        )


def test_a_checkpoint_without_a_branch_is_refused(golden):
    with pytest.raises(CheckpointError, match=r"6 missing: gender_heads.0.weight"):
        edgeseg.create_model("retinaface_mobilenet025", weights=golden.weights(), branches=ALL[:3])


@pytest.mark.parametrize("name", SPECS)
def test_parameters_are_counted(name):
    assert sum(p.numel() for p in meta_model(name).parameters()) == SPECS[name].num_parameters


def meta_model(name):
    """The modules without memory or arithmetic; the anchors are computed on the CPU."""
    config = replace(PRESETS[name], image_size=(64, 64))
    with torch.device("meta"):
        return RetinaFace(name, config)


def test_a_picture_of_another_size_is_refused():
    model = edgeseg.create_model("retinaface_tiny", image_size=64)
    with pytest.raises(ValueError, match=r"\(1, 32, 64, 3\) found, expected \(B, 64, 64, 3\)"):
        model(torch.zeros(1, 32, 64, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (31, 64)}, "image_size 31x64 found, expected at least 32x32"),
        ({"nms": 0.3}, "options nms found for retinaface_tiny, expected some of backbone,"),
        ({"resize": "stretch"}, "resize 'stretch' found, expected one of original, letterbox"),
        ({"backbone": "vgg16"}, "backbone 'vgg16' found, expected one of mobilenet025, resnet50"),
        ({"backbone": "resnet50"}, r"backbone_channels \(16, 32, 56, 80\) found, expected four"),
        ({"fpn_channels": 30}, "fpn_channels 30 found, expected a multiple of 4"),
        ({"min_sizes": ((16, 32),)}, r"min_sizes \(\(16, 32\),\) found, expected one entry for each"),
        ({"min_sizes": ((16,), (), (64,))}, "expected positive pixels, at least one size per level"),
        ({"steps": (8, 16, 0)}, "expected positive pixels"),
        ({"variance": (0.1, 0)}, r"variance \(0.1, 0\) found"),
        ({"branches": ("landmarks",)}, r"branches \('landmarks',\) found, expected 'box' and some"),
        ({"branches": ("box", "age")}, r"branches \('box', 'age'\) found"),
        ({"num_landmarks": 0}, "num_landmarks 0 found, expected at least 1"),
        ({"num_vertices": 0}, "num_vertices 0 found, expected at least 1"),
        ({"nms_threshold": 1.1}, "nms_threshold 1.1 found, expected 0 to 1"),
        ({"initial_score": 0}, "initial_score 0 found, expected between 0 and 1"),
        ({"keep_top_k": 0}, "keep_top_k 0 found, expected at least 1"),
        ({"image_size": 640, "top_k": 5000}, "top_k 5000 found, .* Use top_k=3840, which differs"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        edgeseg.create_model("retinaface_tiny", **options)
