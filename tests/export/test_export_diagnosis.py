"""Ten faults, each named by what it is."""

import numpy as np
import pytest
from faster_coco_eval.core import mask as rle_codec
from graphs_in_memory import calibrate_one
from onnx import helper, numpy_helper
from precision_cases import SIZE, bright_squares, square_detector, square_manifest

from edgeseg.models import PrecisionRecipe
from edgeseg_bench.metrics.agreement import Agreement, agreement_ap
from edgeseg_export.compare import Picture, Side, compare
from edgeseg_export.comparison import verdict
from edgeseg_export.diagnosis import findings
from edgeseg_export.precision import assign, convert, values_needed
from edgeseg_runtime.bundle.manifest import Preprocess

PICTURES = [bright_squares(number) for number in range(2)]
RECIPE = PrecisionRecipe(int8=("stem", "body", "head"))


def with_colours(channels):
    """Return a detector that looks at one colour, and the pictures of which only that one is bright."""
    model = square_detector()
    (tensor,) = [each for each in model.graph.initializer if each.name == "stem.weight"]
    weight = (
        numpy_helper.to_array(tensor)
        * np.float32(3)
        * np.array(channels, np.float32)[:, None, None]
    )
    tensor.CopyFrom(numpy_helper.from_array(weight.astype(np.float32), tensor.name))
    return model


def changed(model, name, change):
    copy = model.copy()
    (tensor,) = [each for each in copy.graph.initializer if each.name == name]
    value = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(change(value).astype(value.dtype), name))
    return copy


def in_int8(model):
    assignment = assign(model, RECIPE, "int8")
    values = values_needed(model, assignment)
    return convert(model, assignment, calibrate_one(model, square_manifest(), PICTURES, values))


def first_of(reference, candidate, pictures=PICTURES, *, both=None, **options):
    both = both or {}
    sides = [
        Side(name=name, graphs={"main": graph}, manifest=square_manifest(**changes))
        for name, graph, changes in (
            ("full", reference, both),
            ("other", candidate, both | options),
        )
    ]

    def shown():
        return (Picture(image_id=i, name=f"{i}", image=p) for i, p in enumerate(pictures, 1))

    report = compare(*sides, shown, len(pictures), data="squares")
    first = report.findings[0]
    assert f"{first.text}: {first.remedy}" in verdict(report)
    return first.kind, first.where


def test_sound_graphs_have_no_findings():
    model = square_detector()
    sides = [
        Side(name="full", graphs={"main": model}, manifest=square_manifest()),
        Side(name="int8", graphs={"main": in_int8(model)}, manifest=square_manifest()),
    ]
    shown = [Picture(image_id=i, name=f"{i}", image=p) for i, p in enumerate(PICTURES, 1)]
    assert compare(*sides, lambda: iter(shown), 2, data="squares").findings == ()


def test_colour_order():
    blue = [picture * np.array([1, 0, 0], np.uint8) for picture in PICTURES]
    found = first_of(with_colours([1, 0, 0]), with_colours([0, 0, 1]), blue)
    assert found == ("colour order", "image")


def test_resize_rule():
    model = square_detector()
    other = Preprocess(height=SIZE, width=SIZE, resize="letterbox")
    assert first_of(model, model, preprocess=other) == ("preprocess", "resize")


def test_suppression_threshold():
    manifest = square_manifest()
    graphs = []
    for threshold in (0.4, 0.6):
        model = square_detector()
        model.graph.node.append(
            helper.make_node("Nms", [], [], name="Nms", domain="edgeseg", threshold=threshold)
        )
        graphs.append({"main": model})
    (found,) = findings((manifest, manifest), tuple(graphs), [], AGREES)
    assert (found.kind, found.where) == ("operator", "Nms")
    assert "threshold of Nms is 0.6" in found.text


def test_wrong_scale():
    model = square_detector()
    other = changed(model, "body.weight", lambda weight: weight / 2)
    assert first_of(model, other) == ("scale", "body/Conv")


def test_saturated_activation():
    model = square_detector()
    other = changed(in_int8(model), "logits_scale", lambda scale: scale / 8)
    assert first_of(model, other) == ("saturated", "head/Conv")


def test_one_bad_channel():
    model = square_detector()

    def broken(weight):
        weight = weight.copy()
        weight[1] = -weight[1]
        return weight

    assert first_of(model, changed(model, "stem.weight", broken)) == ("channel", "stem/Conv")


def test_stale_weights():
    model, other = square_detector(), square_detector()
    rng = np.random.default_rng(0)
    for name in ("stem.weight", "body.weight", "head.weight"):
        other = changed(
            other, name, lambda weight: np.abs(rng.normal(0, np.abs(weight).max(), weight.shape))
        )
    assert first_of(model, other)[0] == "weights"


def test_wrong_padding():
    model, other = square_detector(), square_detector().copy()
    stem = next(node for node in other.graph.node if node.name == "stem/Conv")
    padding = helper.make_node(
        "Pad", ["picture", "pads"], ["padded"], name="stem/Pad", mode="reflect"
    )
    other.graph.node.insert(list(other.graph.node).index(stem), padding)
    other.graph.initializer.append(
        numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads")
    )
    stem = next(node for node in other.graph.node if node.name == "stem/Conv")
    stem.input[0] = "padded"
    for attribute in stem.attribute:
        if attribute.name == "pads":
            attribute.ints[:] = [0] * 4
    bright = [np.full((SIZE, SIZE, 3), 20, np.uint8) for _ in PICTURES]
    for number, picture in enumerate(bright):
        picture[:, : 8 * (number + 1)] = 220
    assert first_of(model, other, bright) == ("padding", "stem/Conv")


AGREES = Agreement(
    ap={"bbox": 1.0, "segm": 1.0},
    score_threshold=0.3,
    num_reference=4,
    num_matched=4,
    num_label_flips=0,
    count_delta=0,
    mean_iou=1.0,
    score_mae=0.0,
    worst=(),
)


def test_swapped_classes():
    """The graph gives the other of two classes."""
    model = square_detector()
    classes = {"labels": ("__background__", "square", "disc"), "category_ids": (0, 1, 2)}
    other = changed(model, "one", lambda _: np.array(2))
    assert first_of(model, other, both=classes) == ("classes", "labels")


def with_masks(shift):
    """Return two detections whose masks lie some pixels right of their boxes."""
    records = []
    for number, left in enumerate((4, 36)):
        mask = np.zeros((SIZE, SIZE), np.uint8, order="F")
        mask[10:30, left + shift : left + shift + 20] = 1
        records.append(
            {
                "image_id": 1,
                "category_id": 1,
                "bbox": [left, 10, 20, 20],
                "score": 0.9 - number / 10,
                "segmentation": rle_codec.encode(mask),
            }
        )
    return records


@pytest.mark.parametrize(("shift", "kinds"), [(0, []), (6, ["masks"])])
def test_shifted_masks(shift, kinds):
    manifest = square_manifest()
    agreement = agreement_ap(
        with_masks(0),
        with_masks(shift),
        images=[{"id": 1, "height": SIZE, "width": SIZE}],
        kinds=("bbox", "segm"),
    )
    found = findings((manifest, manifest), ({}, {}), [], agreement)
    assert [each.kind for each in found] == kinds
