"""Where accuracy is lost: the broken node is named, whatever it is broken by, and no sound one."""

import dataclasses
import json

import numpy as np
import pytest
from graphs_in_memory import calibrate_one
from onnx import numpy_helper
from precision_cases import K, bright_squares, square_detector, square_manifest

from edgeseg.models import PrecisionRecipe
from edgeseg_export.compare import METRICS, Picture, Side, compare
from edgeseg_export.conditions import conditions_from_text, conditions_met
from edgeseg_export.precision import assign, convert, values_needed
from edgeseg_export.taps import MAX_SNR_DB, TapMeter, first_bad
from edgeseg_runtime.bundle.manifest import Preprocess, one_graph
from edgeseg_runtime.tasks import create_task

MODULES = ("stem", "body", "head", "after")
PICTURES = [bright_squares(number) for number in range(3)]
RECIPES = {
    "fp32": PrecisionRecipe(),
    "int8": PrecisionRecipe(int8=MODULES[:3]),
    "fp16": PrecisionRecipe(half=MODULES),
    "mixed": PrecisionRecipe(int8=MODULES[:2], half=MODULES[2:]),
}
LAST = {"stem": "a_clear", "body": "b_clear", "head": "logits"}


def lowered(model, precision):
    if precision == "fp32":
        return model
    assignment = assign(model, RECIPES[precision], precision)
    values = values_needed(model, assignment)
    return convert(model, assignment, calibrate_one(model, square_manifest(), PICTURES, values))


def with_changed(model, name, factor):
    """Return a copy in which an initializer is multiplied; integers are rounded and clipped."""
    copy = model.copy()
    (tensor,) = [tensor for tensor in copy.graph.initializer if tensor.name == name]
    value = numpy_helper.to_array(tensor)
    changed = value.astype(np.float32) * np.float32(factor)
    if value.dtype == np.int8:
        changed = np.clip(np.rint(changed), -127, 127)
    tensor.CopyFrom(numpy_helper.from_array(changed.astype(value.dtype), name))
    return copy


def differences(reference, candidate):
    meter = TapMeter(reference, candidate)
    task = create_task(square_manifest())
    for picture in PICTURES:
        meter.add(task.preprocess(picture)[0])
    return meter.differences()


def side(name, graph, /, **changes):
    return Side(name=name, graphs={"main": graph}, manifest=square_manifest(**changes))


def pictures():
    return (Picture(image_id=7 + i, name=f"{i}.png", image=p) for i, p in enumerate(PICTURES))


def report(reference, candidate):
    return compare(reference, candidate, pictures, len(PICTURES), data="squares")


@pytest.mark.parametrize("precision", RECIPES)
def test_a_sound_graph_has_no_bad_node(precision):
    model = square_detector()
    taps = differences(model, lowered(model, precision))
    assert [tap.name for tap in taps] == [f"{name}/Conv" for name in MODULES]
    assert first_bad(taps) is None
    if precision == "fp32":
        assert {tap.snr_db for tap in taps} == {MAX_SNR_DB}
    else:
        assert taps[0].snr_db < 80


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("precision", RECIPES)
def test_a_scaled_weight_names_its_node(precision, module):
    model = square_detector()
    candidate = lowered(model, precision)
    names = {tensor.name for tensor in candidate.graph.initializer}
    (weight,) = {f"{module}.weight{end}" for end in ("", "_half", "_scale")} & names
    taps = differences(model, with_changed(candidate, weight, 0.5))
    assert [tap.name for tap in taps if tap.is_bad] == [f"{module}/Conv"]


@pytest.mark.parametrize("module", LAST)
@pytest.mark.parametrize("factor", [1 / 8, 256], ids=["clipped", "coarse"])
def test_a_wrong_int8_scale_names_the_node_whose_result_it_holds(module, factor):
    model = square_detector()
    candidate = with_changed(lowered(model, "int8"), f"{LAST[module]}_scale", factor)
    taps = differences(model, candidate)
    assert [tap.name for tap in taps if tap.is_bad] == [f"{module}/Conv"]


def test_an_error_spreads_but_only_its_source_is_bad():
    model = square_detector()
    taps = differences(model, with_changed(model, "stem.weight", 0.5))
    assert all(tap.snr_db < 15 for tap in taps)
    assert [tap.own_snr_db for tap in taps[1:]] == [MAX_SNR_DB] * 3
    assert taps[0].cosine > 0.99, "only the size is wrong"


def test_a_graph_that_computes_nan_is_bad_and_has_no_largest_error():
    model = square_detector()
    taps = differences(model, with_changed(model, "body.weight", np.nan))
    assert first_bad(taps).name == "body/Conv"
    assert taps[1].max_error is None


def test_rows_behind_a_selection_are_those_of_the_reference():
    """The other order of the logits selects other rows; `after` still sees the reference's."""
    model = square_detector()
    taps = differences(model, with_changed(model, "head.weight", -1))
    (after,) = [tap for tap in taps if tap.name == "after/Conv"]
    assert after.own_snr_db == MAX_SNR_DB


def test_graphs_of_different_sizes_are_refused_by_the_meter():
    model, other = square_detector(), square_detector()
    (column,) = [tensor for tensor in other.graph.initializer if tensor.name == "column"]
    column.CopyFrom(numpy_helper.from_array(np.array([1, 1, K, 1]), "column"))
    del other.graph.value_info[:]
    with pytest.raises(ValueError, match="not of one model and size"):
        differences(model, other)


def test_a_report_tells_the_step_the_node_and_the_pictures():
    model = square_detector()
    broken = with_changed(lowered(model, "int8"), "body.weight_scale", -1)
    found = report(side("full", model), side("broken", broken, precision="int8"))
    assert found.first_bad_tap == "body/Conv"
    assert found.steps[0].name == "ONNX int8"
    assert [step.is_same for step in found.steps] == [False, True, True]
    assert found.agreement.ap["bbox"] == 0
    assert found.agreement.num_reference == 9
    assert found.names == {7: "0.png", 8: "1.png", 9: "2.png"}
    document = json.loads(found.to_json())
    assert document["metrics"]["agreement_ap"] == 0
    assert document["metrics"]["num_bad_taps"] == 1
    assert [tap["is_bad"] for tap in document["taps"]] == [False, True, False, False]


def test_equal_sides_agree_in_every_step():
    model = square_detector()
    found = report(side("one", model), side("other", model))
    assert all(step.is_same and step.ap_to_reference == {"bbox": 1.0} for step in found.steps)
    assert found.metrics()["worst_quality"] == 1
    assert set(found.metrics()) <= set(METRICS)


@pytest.mark.parametrize(
    ("step", "changes"),
    [
        ("pre-processing", {"preprocess": Preprocess(height=64, width=64, resize="letterbox")}),
        ("post-processing", {"postprocess": {"score_threshold": 0.999}}),
    ],
)
def test_other_pre_or_postprocessing_is_a_step_of_its_own(step, changes):
    model = square_detector()
    wide = [np.pad(p, ((0, 0), (0, 32), (0, 0))) for p in PICTURES]
    found = compare(
        side("one", model),
        side("other", model, **changes),
        lambda: (Picture(image_id=i, name=str(i), image=p) for i, p in enumerate(wide)),
        len(wide),
        data="squares",
    )
    ap = {step.name: step.ap_to_previous["bbox"] for step in found.steps}
    assert ap.pop(step) < 0.5
    assert set(ap.values()) == {1}
    assert [s.name for s in found.steps if not s.is_same] == [step]


def test_another_size_is_one_step_without_nodes():
    model = square_detector()
    outputs = tuple(
        dataclasses.replace(spec, shape=(1, 5, *spec.shape[2:]))
        for spec in square_manifest().outputs
    )
    other = model.copy()
    for name, value in (("k", [5]), ("column", [1, 1, 1, 5]), ("row", [1, 5])):
        (tensor,) = [t for t in other.graph.initializer if t.name == name]
        tensor.CopyFrom(numpy_helper.from_array(np.array(value), name))
    for output in other.graph.output:
        output.type.tensor_type.shape.dim[1].dim_value = 5
    del other.graph.value_info[:]
    found = report(
        side("one", model),
        side("other", other, graphs=one_graph(square_manifest().inputs, outputs)),
    )
    assert [step.name for step in found.steps] == [
        "ONNX fp32, pre- and post-processing of another size"
    ]
    assert (found.taps, found.first_bad_tap, found.num_tap_pictures) == ((), None, 0)
    assert "num_bad_taps" not in found.metrics()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "circles"}, "the model of other, 'circles', found, expected that of one"),
        ({"labels": ("", "circle")}, "the labels of other"),
    ],
)
def test_two_models_are_not_compared(changes, message):
    model = square_detector()
    with pytest.raises(ValueError, match=message):
        report(side("one", model), side("other", model, **changes))


def test_no_picture_is_an_error():
    model = square_detector()
    with pytest.raises(ValueError, match="empty has no picture"):
        compare(side("one", model), side("other", model), list, 3, data="empty")


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("agreement_ap<0.98", ["agreement_ap<0.98"]),
        ("agreement_ap < 0.5", []),
        ("agreement_ap<=0.9,num_bad_taps>0", ["agreement_ap<=0.9"]),
        ("num_bad_taps>=0, agreement_ap>1e-1", ["num_bad_taps>=0", "agreement_ap>0.1"]),
    ],
)
def test_conditions_hold_or_not(text, met):
    conditions = conditions_from_text([text], METRICS)
    found = conditions_met(conditions, {"agreement_ap": 0.9, "num_bad_taps": 0.0})
    assert [str(condition) for condition in found] == met


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "condition '' found, expected METRIC, one of <= >= < >"),
        ("agreement_ap", "such as agreement_ap<0.98"),
        ("agreement_ap==1", "expected METRIC"),
        ("agreement_ap<high", "expected METRIC"),
        ("agreement_ap<1.2.3", "expected METRIC"),
        ("agreement<1", "metric 'agreement' found, expected one of agreement_ap"),
        ("agreement_ap<1,", "condition '' found"),
    ],
)
def test_a_wrong_condition_says_what_is_right(text, message):
    with pytest.raises(ValueError, match=message):
        conditions_from_text([text], METRICS)


def test_a_condition_on_what_there_is_not_is_an_error():
    conditions = conditions_from_text(["agreement_ap_segm<1"], METRICS)
    with pytest.raises(ValueError, match="there is no agreement_ap_segm here"):
        conditions_met(conditions, {"agreement_ap": 1.0})
