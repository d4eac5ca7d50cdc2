"""YolactEdge against the recorded results of the original, stage by stage and frame by frame."""

import numpy as np
import pytest
import torch
from golden import match_detections
from torch.nn import functional as F
from yolact_cases import SMALL_VIDEO, load_clip, load_instances

import edgeseg
from edgeseg.models import model_manifest
from edgeseg.models.checkpoint import load_weights
from edgeseg.models.yolact.spec import key_table as yolact_key_table
from edgeseg.models.yolact_edge.config import PRESETS
from edgeseg.models.yolact_edge.model import CARRIED, YolactEdge
from edgeseg.models.yolact_edge.spec import SPECS, key_table

TOLERANCE = 2.5e-5
CASES = {"dev": "yolact_edge_vid_resnet50", "dev_image": "yolact_edge_mobilenetv2"}
HEADS = {
    "loc": "box_deltas",
    "logits": "class_logits",
    "proto": "prototypes",
    "coef": "mask_coefficients",
    **{f"p{level}": f"p{level}" for level in range(3, 8)},
}
"""Array of a case -> stage of every frame."""
STEP = {
    "lateral": "lateral",
    "reduced": "reduced",
    "phase1_p3": "merged3",
    **{
        f"{theirs}_p{level}": f"{ours}{level}"
        for theirs, ours in (
            ("flow", "flow"),
            ("scale", "scale"),
            ("bias", "bias"),
            ("warped", "carried"),
            ("spa", "merged"),
        )
        for level in (4, 5)
    },
}
"""Array of a case -> stage of a frame behind a key frame."""


class _GivenInput(torch.nn.Module):
    """Stands in for the normalisation: the network gets exactly what the original's got."""

    def __init__(self, tensor):
        super().__init__()
        self.tensor = tensor

    def forward(self, *_):
        return self.tensor


def _run(model, picture, graph, **state):
    """Every stage on a picture that is resized in floating point (the original's FastBaseTransform)."""
    bgr = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    resized = F.interpolate(bgr, model.config.image_size, mode="bilinear", align_corners=False)
    normalize = model.normalize
    model.normalize = _GivenInput((resized.flip(1) - normalize.mean) / normalize.std)
    with torch.inference_mode():
        image = torch.zeros(1, *model.config.image_size, 3, dtype=torch.uint8)
        found = model.graph_stages(graph, image=image, **state)
    model.normalize = normalize
    return found


@pytest.fixture(scope="module")
def clip():
    """A model of videos, the frames of its case, and every stage of each of them."""
    pictures, cases = load_clip("dev")
    model = edgeseg.create_model(CASES["dev"], weights=cases[0].weights())
    found = [_run(model, pictures[0], "key")]
    state = {f"key_{name}": found[0][name] for name in CARRIED}
    found += [_run(model, picture, "step", **state) for picture in pictures[1:]]
    return model, pictures, cases, found


@pytest.fixture(scope="module")
def picture():
    """A model of pictures, its case, and every stage."""
    golden = load_instances("dev_image", "yolact_edge")
    model = edgeseg.create_model(CASES["dev_image"], weights=golden.weights())
    return model, golden, _run(model, golden.image, "main")


def _errors(golden, found, taps):
    stages = {array: found[stage] for array, stage in taps.items()}
    stages["coef"] = stages["coef"].tanh()
    stages["proto"] = stages["proto"].permute(0, 2, 3, 1)
    errors = {name: golden.relative_error(name, stage.numpy()) for name, stage in stages.items()}
    return {name: error for name, error in errors.items() if error > TOLERANCE}


def test_every_stage_of_every_frame_is_the_original_s(clip):
    _, _, cases, found = clip
    key = {"state_p4": "merged4", "state_p5": "merged5"}
    for number, (golden, stages) in enumerate(zip(cases, found, strict=True)):
        assert _errors(golden, stages, HEADS | (STEP if number else key)) == {}, number
    assert cases[1].relative_error("reduced_key", found[0]["reduced"].numpy()) < TOLERANCE


def test_every_stage_of_a_picture_is_the_original_s(picture):
    _, golden, found = picture
    assert _errors(golden, found, HEADS) == {}


def test_instances_of_every_frame_are_the_original_s(clip):
    model, pictures, cases, _ = clip
    with edgeseg.torch_predictor(model).session() as session:
        for image, golden in zip(pictures, cases, strict=True):
            _check_instances(session(image), golden)


def test_instances_of_a_picture_are_the_original_s(picture):
    model, golden, _ = picture
    _check_instances(edgeseg.torch_predictor(model)(golden.image), golden)


def _check_instances(result, golden):
    rows = match_detections(result, golden, box_px=1, score=1e-4)
    assert (result.boxes[rows] != golden.arrays["boxes"]).sum() <= 2
    assert (result.masks[rows] != golden.masks()).sum() <= 50


@pytest.mark.parametrize("name", PRESETS)
def test_every_parameter_has_a_name_in_the_original_and_back(name):
    table, model = key_table(name), _meta_model(name)
    for ours in model.state_dict():
        theirs = table.original_from_ours(ours)
        assert theirs is not None, ours
        assert table.ours_from_original(theirs) == ours
    assert sum(p.numel() for p in model.parameters()) == SPECS[name].num_parameters


@pytest.mark.parametrize("case", CASES)
def test_the_checkpoint_s_keys_and_shapes_are_exactly_ours(case):
    """But for what only training uses, and what nothing uses."""
    table = key_table(CASES[case])
    ours = {
        table.original_from_ours(key): list(value.shape)
        for key, value in _meta_model(CASES[case]).state_dict().items()
    }
    theirs = {key: shape for key, shape, _ in load_state(case)}
    extra = theirs.keys() - ours.keys()
    assert {key for key in extra if not table.is_ignored(key)} == set()
    assert {key.split(".")[0] for key in extra} <= {"semantic_seg_conv", "flow_net", "backbone"}
    assert ours == {key: shape for key, shape in theirs.items() if key not in extra}


def load_state(case):
    return (
        load_clip(case)[1][0].state if case == "dev" else load_instances(case, "yolact_edge").state
    )


def test_yolact_s_checkpoint_is_a_model_of_pictures():
    """Its pyramid has other names, and the same arithmetic."""
    options = {
        name: value
        for name, value in SMALL_VIDEO.items()
        if not name.startswith(("flow", "backbone"))
    }
    yolact = edgeseg.create_model("yolact_resnet50", **options)
    table = yolact_key_table("yolact_resnet50")
    state = {table.original_from_ours(key): value for key, value in yolact.state_dict().items()}
    model = edgeseg.create_model("yolact_edge_resnet50", **options)
    load_weights(model, state, key_table("yolact_edge_resnet50"))
    image = torch.randint(0, 256, (1, 96, 96, 3), dtype=torch.uint8)
    with torch.inference_mode():
        for name, expected in yolact(image).items():
            assert torch.equal(model(image)[name], expected)


def _meta_model(name):
    """The modules without memory or arithmetic."""
    with torch.device("meta"):
        return YolactEdge(name, PRESETS[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flow_channels": -1}, "flow_channels -1, flow_widths .* found, expected a number"),
        ({"flow_widths": (8, 8)}, r"flow_widths \(8, 8\) found"),
        ({"key_interval": 0}, "key_interval 0 found, expected at least 1 frame"),
        (
            {"backbone": "darknet53"},
            "backbone 'darknet53' found for a model of videos, expected one",
        ),
        ({"backbone": "vgg16"}, "backbone 'vgg16' found for a model of videos"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        edgeseg.create_model("yolact_edge_vid_resnet50", **options)


def test_key_frames_come_as_often_as_the_option_says():
    manifest = model_manifest(edgeseg.create_model(CASES["dev"], key_interval=3, **SMALL_VIDEO))
    schedule = manifest.schedule
    assert (schedule.first, schedule.then, schedule.first_every) == (("key",), ("step",), 3)
    assert manifest.graphs["step"].reads == {f"key_{name}": name for name in CARRIED}


@pytest.mark.parametrize("winner", [0, 1])
def test_no_detection_and_the_maximum_come_in_the_same_shapes(winner):
    """The bias of the classifier decides, in key frames and behind them."""
    model = edgeseg.create_model(CASES["dev"], **SMALL_VIDEO)
    with torch.no_grad():
        bias = model.head.classes.bias.reshape(-1, 4)
        bias.fill_(-20)
        bias[:, winner] = 20
    with edgeseg.torch_predictor(model).session() as session:
        for _ in range(3):
            assert len(session(np.full((50, 70, 3), 128, np.uint8))) == 5 * winner


def test_a_flow_that_leaves_the_map_or_is_no_number_finds_nothing_or_says_so():
    model = edgeseg.create_model(CASES["dev"], **SMALL_VIDEO)
    for value, is_finite in ((1e30, True), (float("nan"), False)):
        with torch.no_grad():
            model.partial.flow_net.coarse.flow.weight.fill_(value)
            model.partial.flow_net.levels[2][1].conv.bias.fill_(1)
        image = torch.full((1, 96, 96, 3), 128, dtype=torch.uint8)
        with torch.inference_mode():
            key = model.graph_stages("key", image=image)
            step = model.graph_stages(
                "step", image=image, **{f"key_{name}": key[name] for name in CARRIED}
            )
        assert bool(step["carried5"].isfinite().all()) == is_finite
        assert step["scores"].isfinite().all()
