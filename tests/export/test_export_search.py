"""The search for modules that bear int8: the one that does not is found and left out."""

import io

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from precision_cases import bright_squares, square_detector, square_manifest
from rich.console import Console

import edgeseg
from edgeseg.models import PrecisionRecipe
from edgeseg_bench.datasets import open_dataset
from edgeseg_export.calibration import calibrate
from edgeseg_export.search import (
    MAX_GROUPS,
    Group,
    choose,
    module_groups,
    search,
    values_for_search,
)
from edgeseg_runtime import Manifest
from edgeseg_runtime.commands.inspect import inspect_path
from edgeseg_runtime.commands.tables import sections_from_document

RECIPE = PrecisionRecipe(int8=("stem", "body", "head"))
PICTURES = [bright_squares(number) for number in range(3)]


def found(model, pictures=PICTURES, **options):
    plain = {"main": model}
    magnitudes = calibrate(plain, square_manifest(), PICTURES, values_for_search(plain, RECIPE))
    return search(
        plain,
        square_manifest(),
        RECIPE,
        magnitudes,
        pictures,
        complete=lambda graph: graph,
        **options,
    )


@pytest.fixture(scope="module")
def sensitive():
    """What is found in a detector whose `body` holds a value far above all that matters."""
    return found(square_detector(outlier=1000.0))


def test_the_sensitive_module_stays_float(sensitive):
    assert [group.name for group in sensitive.choice.kept] == ["stem", "head"]
    assert set(sensitive.assignments["main"]) == {"stem/Conv", "stem/Relu", "head/Conv"}
    assert sensitive.agreement["body"] < 0.5
    assert min(sensitive.agreement["stem"], sensitive.agreement["head"]) > 0.99
    assert sensitive.choice.agreement_of_all < 0.5
    assert sensitive.choice.agreement > 0.99


def test_the_table_tells_every_module(sensitive):
    table = sensitive.to_json()
    assert table["max_drop"] == 0.01
    assert table["num_pictures"] == 3
    assert table["agreement_ap"] > 0.99 > table["agreement_ap_all_int8"]
    rows = {row["module"]: row for row in table["modules"]}
    assert {name: row["precision"] for name, row in rows.items()} == {
        "stem": "int8",
        "body": "fp32",
        "head": "int8",
    }
    assert sum(row["share_of_multiply_adds"] for row in rows.values()) == pytest.approx(1, abs=1e-3)
    # 54 products at each of 4096 places; 256 at 64 places; 2 at 64 places
    total = 54 * 4096 + 256 * 64 + 2 * 64
    assert rows["stem"]["share_of_multiply_adds"] == pytest.approx(54 * 4096 / total, abs=1e-3)


def test_a_budget_that_allows_everything_takes_nothing_out():
    result = found(square_detector(outlier=1000.0), max_drop=1.0)
    assert result.choice.kept == result.groups
    assert "body/Conv" in result.assignments["main"]


def test_a_model_that_bears_int8_keeps_it():
    result = found(square_detector())
    assert result.choice.kept == result.groups
    assert result.to_json()["agreement_ap"] > 0.99


def test_a_search_gives_the_same_answer_again(sensitive):
    assert found(square_detector(outlier=1000.0)) == sensitive


def test_progress_counts_the_modules():
    seen = []
    found(square_detector(), progress=lambda *step: seen.append(step))
    assert seen == [("sensitivity of the modules", i, 3) for i in range(3)] + [("search", 0, 0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_drop": -0.1}, "max_drop -0.1 found, expected a number in 0..1"),
        ({"max_drop": float("nan")}, "max_drop nan found"),
        (
            {"pictures": [np.zeros((64, 64, 3), np.uint8)]},
            "finds nothing on the 1 pictures that precision 'auto' searches on",
        ),
    ],
)
def test_a_search_refuses_what_means_nothing(options, message):
    with pytest.raises(ValueError, match=message):
        found(square_detector(), **options)


@pytest.mark.parametrize(
    ("work_and_loss", "max_drop", "kept"),
    [
        ({"a": (10, 0.03)}, 0.03, "a"),
        ({"a": (10, 0.03)}, 0.029, ""),
        ({"a": (10, 0.0), "b": (10, 0.0)}, 0.0, "ab"),
        ({"a": (10, 0.03), "b": (5, 0.02)}, 0.03, "a"),
        ({"a": (10, 0.03), "b": (2, 0.02), "c": (1, 0.0)}, 0.03, "ac"),
        # a saves most for its loss and goes last, but without it there is room for c again
        ({"a": (100, 0.03), "c": (1, 0.001)}, 0.005, "c"),
        ({"a": (100, 0.03), "b": (2, 0.004), "c": (1, 0.003)}, 0.005, "b"),
    ],
)
def test_what_saves_most_for_its_loss_stays(work_and_loss, max_drop, kept):
    groups = [
        Group(name=n, nodes=(("main", n),), multiply_adds=w) for n, (w, _) in work_and_loss.items()
    ]
    alone = {name: 1 - loss for name, (_, loss) in work_and_loss.items()}
    judged = []

    def together(chosen):
        judged.append("".join(group.name for group in chosen))
        return 1 - sum(1 - alone[group.name] for group in chosen)

    choice = choose(groups, alone, together, max_drop=max_drop)
    assert "".join(group.name for group in choice.kept) == kept
    assert 1 - choice.agreement == pytest.approx(sum(1 - alone[n] for n in kept), abs=1e-9)
    assert len(judged) == len(set(judged)), "something was judged twice"


@pytest.mark.parametrize(
    ("max_float_share", "kept"),
    [(0.0, "abc"), (0.04, "abc"), (0.05, "ab"), (0.25, "ab"), (0.3, "a")],
)
def test_of_little_room_for_float_the_best_use_is_made(max_float_share, kept):
    """Together they lose more than is allowed unless both b and c go."""
    work = {"a": 70, "b": 25, "c": 5}
    lost = {"a": 0.02, "b": 0.1, "c": 0.05}
    groups = [Group(name=n, nodes=(("main", n),), multiply_adds=w) for n, w in work.items()]
    choice = choose(
        groups,
        {name: 1 - loss for name, loss in lost.items()},
        lambda chosen: 1 - sum(lost[group.name] for group in chosen),
        max_drop=0.02,
        max_float_share=max_float_share,
    )
    assert "".join(group.name for group in choice.kept) == kept


def test_where_all_is_good_enough_no_module_is_looked_at_alone():
    steps = []
    result = found(
        square_detector(), max_float_share=0.1, progress=lambda *step: steps.append(step)
    )
    assert result.choice.kept == result.groups
    assert steps == [("search", 0, 0)]
    assert {row["agreement_ap_alone"] for row in result.to_json()["modules"]} == {None}


def test_a_large_module_is_not_left_in_float_for_a_small_share():
    result = found(square_detector(outlier=1000.0), max_float_share=0.01)
    assert result.choice.kept == result.groups
    assert result.agreement["body"] < 0.5


def chain(*modules):
    """Return a graph of 1x1 convolutions of these modules, on four places."""
    values = [f"v{number}" for number in range(len(modules) + 1)]
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    nodes = [
        helper.make_node("Conv", [before, "w"], [after], name=f"{module}/Conv")
        for module, before, after in zip(modules, values, values[1:], strict=False)
    ]
    infos = [helper.make_tensor_value_info(v, TensorProto.FLOAT, [1, 1, 2, 2]) for v in values]
    graph = helper.make_graph(
        nodes, "chain", infos[:1], infos[-1:], [weight], value_info=infos[1:-1]
    )
    return helper.make_model(graph)


@pytest.mark.parametrize(
    ("modules", "entries", "groups"),
    [
        (["a.0", "a.1", "b"], ["a", "b"], ["a.0", "a.1", "b"]),
        (["a.x.0.conv", "a.x.1.conv"], ["a"], ["a.x.0", "a.x.1"]),
        (["a", "a.0", "a.1"], ["a"], ["a"]),
        (["b", "a.0", "b.c"], ["a", "b", "b.c"], ["b", "a", "b.c"]),
        (["a.conv", "c"], ["a"], ["a"]),
        ([f"a.{i}" for i in range(40)], ["a"], ["a"]),
        (
            [f"a.{i}.{j}" for i in range(4) for j in range(6)],
            ["a"],
            [*(f"a.0.{j}" for j in range(6)), "a.1", "a.2", "a.3"],
        ),
    ],
)
def test_large_modules_are_taken_apart_down_to_blocks(modules, entries, groups):
    graph = chain(*modules)
    made = module_groups({"main": graph}, PrecisionRecipe(int8=tuple(entries)))
    assert [group.name for group in made] == groups
    assert len(made) <= MAX_GROUPS
    names = [name for group in made for _, name in group.nodes]
    assert sorted(names) == sorted(f"{m}/Conv" for m in modules if m != "c")
    assert sum(group.multiply_adds for group in made) == 4 * len(names)


def test_transposed_convolutions_count_their_input_places():
    weight = numpy_helper.from_array(np.ones((3, 5, 2, 2), np.float32), "w")
    node = helper.make_node(
        "ConvTranspose", ["x", "w"], ["y"], name="up/ConvTranspose", strides=[2, 2]
    )
    graph = helper.make_graph(
        [node],
        "up",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5, 8, 8])],
        [weight],
    )
    model = helper.make_model(graph)
    onnx.checker.check_model(model)
    (group,) = module_groups({"main": model}, PrecisionRecipe(int8=("up",)))
    assert group.multiply_adds == 3 * 5 * 4 * 16


@pytest.mark.slow
def test_a_searched_bundle_keeps_its_table(tmp_path):
    model = edgeseg.create_model("maskrcnn_tiny", weights="shapes", image_size=128)
    pictures = [sample.image for sample in open_dataset("shapes", split="train", limit=2)]
    folder = edgeseg.export_bundle(
        model, tmp_path / "auto", precision="auto", max_drop=0.5, calibration=pictures, num_images=1
    )
    manifest = Manifest.load(folder)
    table = manifest.parity["precision"]["search"]
    assert manifest.precision == "int8"
    assert 1 - table["agreement_ap"] <= 0.5
    names = [row["module"] for row in table["modules"]]
    assert {"fpn", "rpn.conv", "mask_head"} < set(names)
    assert any(name.startswith("backbone.stages.0") for name in names)
    text = io.StringIO()
    console = Console(file=text, width=200)
    console.print(*sections_from_document(inspect_path(folder)))
    assert "Parity precision.search.modules" in text.getvalue()
