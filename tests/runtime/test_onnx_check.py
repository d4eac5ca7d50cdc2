"""check_graph: a model holds nothing that a bundle may not hold, and what a bundle holds passes."""

import contextlib
import itertools
import random

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_cases import body_loop, fan, loop, model_of, mutants, node, tiny_model, with_long_tag
from tiny_bundle import tiny_model as picture_model

from edgeseg_runtime.errors import BundleError, CorruptArtifact, EngineBuildError, UnsafeModel
from edgeseg_runtime.onnx.check import check_encoding, check_graph

ONNX = picture_model().SerializeToString()


def check(model, **options):
    check_graph(model.SerializeToString(), **options)


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage" * 20, ONNX[:-1], ONNX[:90], b"\xff" * 64, b"\x0b" * 8, b"\x08" + b"\x80" * 11],
    ids=["empty", "text", "cut by one", "cut", "ones", "group", "endless integer"],
)
def test_what_is_no_model_is_a_corrupt_artifact(content):
    with pytest.raises(CorruptArtifact, match=r"other\.onnx is damaged: expected an ONNX model"):
        check_graph(content, file="other.onnx")


def test_the_format_of_onnx_runtime_is_refused():
    with pytest.raises(CorruptArtifact, match="ORT format"):
        check_graph(b"\x20\0\0\0ORTM" + bytes(100))


@pytest.mark.parametrize("position", range(0, len(ONNX), max(1, len(ONNX) // 200)))
def test_a_flipped_bit_gives_a_typed_error_or_nothing(position):
    content = bytearray(ONNX)
    content[position] ^= 1 << position % 8
    with contextlib.suppress(BundleError, EngineBuildError):  # anything else fails the test
        check_graph(bytes(content))


def test_a_reference_behind_a_long_tag_is_refused():
    """One of protobuf's libraries keeps 32 bits of such a tag, and an engine reads the file."""
    with pytest.raises(CorruptArtifact, match="a tag 0x10000003a at byte"):
        check_graph(with_long_tag(ONNX))


def test_a_reference_to_another_file_is_refused():
    model = tiny_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/machine-id")
    for check_it in (check_graph, check_encoding):
        with pytest.raises(UnsafeModel, match=r"model\.onnx keeps weights in other files") as info:
            check_it(model.SerializeToString())
        assert info.value.exit_code == 3


# ---------------------------------------------------------------- versions


@pytest.mark.parametrize("opset", [24, 999, 2**31, 2**62])
def test_a_newer_opset_says_to_upgrade(opset):
    model = tiny_model()
    model.opset_import[0].version = opset
    with pytest.raises(EngineBuildError, match=f"found opset {opset} .*pip install -U") as info:
        check(model)
    assert info.value.exit_code == 4


@pytest.mark.parametrize("opset", [-1, 0, 12])
def test_an_older_opset_is_refused(opset):
    model = tiny_model()
    model.opset_import[0].version = opset
    with pytest.raises(UnsafeModel, match=f"opset {opset}, expected at least 7 and 13"):
        check(model)


def test_a_function_of_another_opset_is_refused():
    """Its body is written out in the graph, where its operators would mean something else."""
    model = fan(depth=0, width=1)
    model.functions[0].opset_import[0].version = 17
    with pytest.raises(UnsafeModel, match="function 'edgeseg::F0' of opset 17, expected 20"):
        check(model)


# ---------------------------------------------------------------- operators

PASSING = {
    "every form of a value": tiny_model(),
    "a picture": picture_model(),
    "functions in functions": fan(depth=3, width=3),
    "a counted loop": loop(
        [node("Identity", ["needed"], ["again"]), node("Neg", ["before"], ["after"])],
        count="five",
        constants={"five": np.int64(5)},
    ),
    "a loop that counts": body_loop(),
    "a free axis whose size is asked for": model_of(
        [
            node("Shape", ["x"], ["rows"], start=1, end=2),
            node("Concat", ["one", "rows", "four"], ["wanted"], axis=0),
            node("Expand", ["x", "wanted"], ["wide"]),
            node("Gather", ["wide", "zero"], ["y"], axis=2),
        ],
        {"one": np.array([1]), "four": np.array([4]), "zero": np.array([0])},
        x=(TensorProto.FLOAT, [1, "rows", 1]),
    ),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_a_bundle_may_hold_passes(name):
    check(PASSING[name])


def chain(operator, count, **attributes):
    names = ["x", *(f"v{index}" for index in range(count - 1)), "y"]
    return [
        node(operator, [a, a] if operator == "Concat" else [a], [b], **attributes)
        for a, b in itertools.pairwise(names)
    ]


def of_shape(count):
    return [node("ConstantOfShape", ["n"], ["y"])], {"n": np.array([count])}


HUGE = 3 * 2**28
OPERATORS = {
    "chance": (([node("RandomUniformLike", ["x"], ["y"])],), r"\(RandomUniformLike\), an operator"),
    "a size that depends on the picture": (([node("NonZero", ["x"], ["y"])],), r"\(NonZero\)"),
    "an operator of nobody": (([node("Relu", ["x"], ["y"], domain="other")],), r"\(other::Relu\)"),
    "a function that is missing": (
        ([node("Nms", ["x"], ["y"], domain="edgeseg")],),
        r"\(edgeseg::Nms\), an operator",
    ),
    "an attribute that it does not have": (
        ([node("Relu", ["x"], ["y"], alpha=1.0)],),
        r"\(Relu\) with the attribute 'alpha' of type 1",
    ),
    "an attribute of another type": (
        ([node("Softmax", ["x"], ["y"], axis=1.0)],),
        "attribute 'axis' of type 1",
    ),
    "too few inputs": (([node("Add", ["x"], ["y"])],), r"\(Add\) with 1 inputs"),
    "too many inputs": (([node("Relu", ["x", "x"], ["y"])],), r"\(Relu\) with 2 inputs"),
    "an input left out": (([node("Add", ["x", ""], ["y"])],), r"\(Add\) with 2 inputs"),
    "an empty name behind the last input": (([node("Clip", ["x", ""], ["y"])],), "with 2 inputs"),
    "one of any number left out": (([node("Max", ["x", "", "x"], ["y"])],), r"with 3 inputs"),
    "a value that nobody makes": (([node("Relu", ["z"], ["y"])],), "'z' is used before it is made"),
    "a value that is made twice": (
        ([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])],),
        "the value 'y' is made twice",
    ),
    "sizes that do not fit": (
        ([node("Add", ["x", "w"], ["y"])], {"w": np.zeros(4, np.float32)}),
        r"the node 'y' \(Add\) joins \[2, 3\], \[4\]",
    ),
    "fewer axes than it looks at": (
        ([node("DeformConv", ["x", "w", "o"], ["y"])], {"w": np.zeros(2), "o": np.float32(0)}),
        r"the node 'y' \(DeformConv\)",
    ),
    "a size that is computed": (
        (
            [
                node("ArgMax", ["x"], ["k"], axis=1, keepdims=0),
                node("ConstantOfShape", ["k"], ["y"]),
            ],
        ),
        "has a shape that is computed: its input 0 is neither constant nor a few sizes",
    ),
    "a division by a computed number": (
        ([node("Cast", ["x"], ["i"], to=6), node("Div", ["i", "i"], ["y"])],),
        "divides whole numbers by something else than constants",
    ),
    "nothing at all": (
        ([node("Slice", ["x", "two", "two"], ["y"])], {"two": np.array([2])}),
        r"has the shape \[0, 3\], without any element",
    ),
    "an index outside": (
        ([node("Gather", ["x", "i"], ["y"])], {"i": np.array([2])}),
        "indices outside of an axis of 2",
    ),
    # Large things from small ones.
    "ConstantOfShape": (of_shape(HUGE), r"\(ConstantOfShape\) gives has the shape \[805306368\]"),
    "Expand": (
        ([node("Expand", ["x", "n"], ["y"])], {"n": np.array([HUGE, 2, 3])}),
        r"\(Expand\) gives has the shape",
    ),
    "Tile": (
        ([node("Tile", ["x", "n"], ["y"])], {"n": np.array([HUGE, 1])}),
        r"\(Tile\) gives has the shape",
    ),
    "Pad": (
        ([node("Pad", ["x", "n"], ["y"])], {"n": np.array([0, HUGE, 0, 0])}),
        r"\(Pad\) gives has the shape",
    ),
    "Range": (
        (
            [node("Range", ["a", "n", "b"], ["y"])],
            {"a": np.int64(0), "b": np.int64(1), "n": np.int64(HUGE)},
        ),
        r"\(Range\) gives has the shape",
    ),
    "Resize": (
        ([node("Resize", ["x", "", "n"], ["y"])], {"n": np.array([HUGE, 1], np.float32)}),
        r"\(Resize\) gives has the shape",
    ),
    "OneHot": (
        (
            [node("OneHot", ["i", "n", "v"], ["y"])],
            {"i": np.zeros(9, int), "n": np.int64(HUGE), "v": np.zeros(2)},
        ),
        r"\(OneHot\) gives has the shape",
    ),
    "a chain of Concat": ((chain("Concat", 40, axis=0),), r"\(Concat\) gives has the shape"),
    "an outer product": (
        (
            [
                node("Expand", ["x", "n"], ["w"]),
                node("Reshape", ["w", "c"], ["r"]),
                node("Transpose", ["r"], ["t"]),
                node("Mul", ["r", "t"], ["y"]),
            ],
            {"n": np.array([2**15, 2, 3]), "c": np.array([-1, 1])},
        ),
        r"\(Mul\) gives has the shape",
    ),
    "axes without end": (
        ([node("Unsqueeze", ["x", "n"], ["y"])], {"n": np.arange(9)}),
        "has 11 axes, at most 8",
    ),
    "a kernel without end": (
        ([node("MaxPool", ["p"], ["y"], kernel_shape=[2**40, 1])], {"p": np.zeros((1, 1, 4, 4))}),
        r"\(MaxPool\) has the kernel",
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_the_node_that_a_bundle_may_not_hold_is_named(name):
    parts, message = OPERATORS[name]
    with pytest.raises(UnsafeModel, match=message) as info:
        check(model_of(*parts))
    assert "Export it again, and do not load this bundle unless" in str(info.value)


def test_constants_that_an_engine_would_compute_at_load_are_bounded_together():
    nodes = [node("ConstantOfShape", ["n"], [f"c{index}"]) for index in range(20)]
    nodes += [node("Sum", [f"c{index}" for index in range(20)], ["y"])]
    with pytest.raises(UnsafeModel, match="one constant too much: they fill the memory"):
        check(model_of(nodes, {"n": np.array([2**24])}))


def test_values_that_live_at_one_time_are_bounded_together():
    nodes = [node("Expand", ["x", "n"], [f"c{index}"]) for index in range(20)]
    nodes += [node("Sum", [f"c{index}" for index in range(20)], ["y"])]
    with pytest.raises(UnsafeModel, match=r"needs \d+ elements at one time"):
        check(model_of(nodes, {"n": np.array([2**22, 2, 3])}))


def test_the_bound_grows_with_the_picture():
    nodes = [node("Expand", ["x", "n"], ["y"])]
    large = {"n": np.array([40, 3, 1024, 1024])}
    check(model_of(nodes, large, x=(TensorProto.FLOAT, [1, 3, 1024, 1024])))
    with pytest.raises(UnsafeModel, match="elements, where 33554432 are the most"):
        check(model_of(nodes, large, x=(TensorProto.FLOAT, [1, 3, 1, 1])))


# ---------------------------------------------------------------- operators of one's own


def test_operators_of_ones_own_pass_by_their_full_names():
    model = model_of(
        [
            node("NonZero", ["x"], ["places"]),
            node("Cast", ["places"], ["p"], to=1),
            node("Best", ["p"], ["y"], domain="my.own"),
        ]
    )
    check(model, allow_operators=["NonZero", "my.own::Best"])
    with pytest.raises(UnsafeModel, match=r"the node 'y' \(my\.own::Best\)"):
        check(model, allow_operators=["NonZero", "Best"])


def test_a_function_of_another_domain_needs_the_callers_word():
    model = fan(depth=0, width=1)
    for item in (model.functions[0], model.graph.node[0], model.opset_import[1]):
        item.domain = "my.own"
    with pytest.raises(UnsafeModel, match=r"the function 'my\.own::F0', expected only those of"):
        check(model)
    check(model, allow_operators=["my.own::F0"])


# ---------------------------------------------------------------- functions


def test_functions_that_fan_out_are_refused_at_once():
    with pytest.raises(
        UnsafeModel, match="nodes when its functions are written out, at most 50000"
    ):
        check(fan(depth=14, width=10))


def test_constants_that_functions_multiply_are_refused():
    with pytest.raises(UnsafeModel, match="bytes of constants in calls, at most 268435456"):
        check(fan(depth=2, width=20, nbytes=2**20))


@pytest.mark.parametrize("is_circle", [False, True])
def test_calls_within_calls_are_bounded(is_circle):
    model = fan(depth=20, width=1)
    if is_circle:
        model = fan(depth=2, width=1)
        model.functions[2].node[0].op_type, model.functions[2].node[0].domain = "F1", "edgeseg"
    with pytest.raises(UnsafeModel, match="more than 16 levels of calls"):
        check(model)


# ---------------------------------------------------------------- loops

GOES_ON = [node("Identity", ["needed"], ["again"]), node("Neg", ["before"], ["after"])]
COUNT = {"n": np.int64(5)}


def with_node(first, model):
    model.graph.node.insert(0, first)
    return model


LOOPS = {
    "no end": (loop(GOES_ON), r"the node 'loop' \(Loop\) may run without end"),
    "no condition": (loop(GOES_ON, needed=""), r"\(Loop\) runs without end"),
    "a count without a number": (
        loop(GOES_ON, count="n", constants={"n": np.zeros(0, np.int64)}),
        "a count or condition that is not a scalar",
    ),
    "too many steps": (
        loop(GOES_ON, count="n", constants={"n": np.int64(2**40)}),
        "a number of steps that is not a constant up to 262144",
    ),
    "a count that is computed": (
        model_of(
            [
                node("ReduceMax", ["x"], ["most"], keepdims=0),
                node("Cast", ["most"], ["k"], to=7),
                *loop(GOES_ON, count="k").graph.node,
            ],
            {"on": np.array(True)},
        ),
        "a number of steps that is not a constant",
    ),
    "a state that grows": (
        loop(
            [GOES_ON[0], node("Concat", ["before", "before"], ["after"], axis=0)],
            count="n",
            constants=COUNT,
        ),
        "changes the shape or type of a state",
    ),
    "a count that stands still": (
        loop(
            [node("Add", ["before", "c"], ["after"]), node("Less", ["after", "end"], ["again"])],
            start="start",
            constants={"c": np.float32(0), "end": np.float32(4), "start": np.float32(0)},
        ),
        "may run without end",
    ),
    "a count that float32 ends": (
        loop(
            [node("Add", ["before", "c"], ["after"]), node("Less", ["after", "end"], ["again"])],
            start="start",
            constants={"c": np.float32(1), "end": np.float32(2**25), "start": np.float32(2**24)},
        ),
        "may run without end",
    ),
    "a bound that the picture sets": (
        with_node(
            node("ReduceMax", ["x"], ["limit"], keepdims=0),
            loop(
                [
                    node("Add", ["before", "c"], ["after"]),
                    node("Less", ["after", "limit"], ["again"]),
                ],
                start="start",
                constants={"c": np.float32(1), "start": np.float32(0)},
            ),
        ),
        "may run without end",
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_that_may_not_end_is_refused(name):
    model, message = LOOPS[name]
    with pytest.raises(UnsafeModel, match=message):
        check(model)


def test_a_loop_with_a_collected_output_is_refused():
    model = loop(GOES_ON, count="n", constants=COUNT)
    model.graph.node[0].attribute[0].g.output.append(
        helper.make_tensor_value_info("after", TensorProto.FLOAT, None)
    )
    model.graph.node[0].output.append("all")
    with pytest.raises(UnsafeModel, match="other values than a condition and states"):
        check(model)


# ---------------------------------------------------------------- borders


def change_input(model, *, shape):
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))


BORDERS = {
    "an input without a shape": (
        lambda m: change_input(m, shape=None),
        "the input 'x' has no shape",
    ),
    "a third free axis": (
        lambda m: change_input(m, shape=["n", "rows", "wide"]),
        "only the first two axes may be free",
    ),
    "an empty axis": (lambda m: change_input(m, shape=[0, 3]), "and none empty"),
    "a huge input": (
        lambda m: change_input(m, shape=[2**20, 2**20]),
        "the input 'x' has the shape .* elements, where",
    ),
    "an input that is a weight too": (
        lambda m: setattr(m.graph.input[0], "name", "weights"),
        "the value 'weights' is made twice",
    ),
    "an output that nobody makes": (
        lambda m: setattr(m.graph.output[0], "name", "z"),
        "the value 'z' is used before it is made",
    ),
    "an output twice": (
        lambda m: m.graph.output.append(m.graph.output[0]),
        "two outputs of one name",
    ),
    "no output": (lambda m: m.graph.ClearField("output"), "0 outputs, expected 1 to 256"),
    "an output of another shape": (
        lambda m: m.graph.output[0].CopyFrom(
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 5])
        ),
        r"'y' is said to be of type 1 and shape \(3, 5\), and is of type 1 and shape \(3, 2\)",
    ),
    "a value of another type": (
        lambda m: m.graph.value_info[0].CopyFrom(
            helper.make_tensor_value_info("sum", TensorProto.INT64, [2, 3])
        ),
        "'sum' is said to be of type 7",
    ),
}


@pytest.mark.parametrize("name", BORDERS)
def test_what_a_model_says_of_its_values_must_hold(name):
    change, message = BORDERS[name]
    model = tiny_model()
    change(model)
    with pytest.raises(UnsafeModel, match=message):
        check(model)


# ---------------------------------------------------------------- time


def test_weights_are_not_copied():
    """The time does not depend on their size; here they are read by nobody."""
    weight = np.zeros((2**10, 2**10), np.float32)
    content = model_of(
        [node("MatMul", ["x", "w"], ["y"])], {"w": weight}, x=(TensorProto.FLOAT, [2, 2**10])
    ).SerializeToString()
    model = check_encoding(content)
    elements = model.graph.initializers[0].elements
    assert elements.obj is content
    check_graph(content)


@pytest.mark.parametrize("model", [body_loop(), fan(depth=2, width=2)], ids=["loop", "functions"])
def test_a_mutated_model_gives_a_typed_error_or_nothing(model):
    for mutant in mutants(model.SerializeToString(), random.Random(7), 300):
        with contextlib.suppress(BundleError, EngineBuildError):
            check_graph(mutant)
