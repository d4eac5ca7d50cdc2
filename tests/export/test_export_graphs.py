"""What engines get of every family: functions expanded, standard operators, no dynamic shape."""

import onnx
import pytest
from cornernet_cases import SMALL
from onnx import helper, shape_inference

import edgeseg
from edgeseg.models import list_models, model_manifest
from edgeseg_export.graph import complete_graph, in_one_graph, trace_graphs
from edgeseg_runtime.bundle.graph_files import read_graph
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.onnx.inline import inline_functions

REFUSED = {"NonZero", "NonMaxSuppression", "DeformConv", "RoiAlign", "Compress", "Unique"}
TINY = [
    (name, graph)
    for name in list_models()
    if name.endswith("_tiny")
    for graph in (("detect", "mask") if name == "maskrcnn_tiny" else ("main",))
]
OPTIONS = {
    ("centernet_tiny", "pose"): {"kind": "pose", "image_size": 128},
    ("centernet_resnet18_dcn", "small"): {"image_size": 64},
    ("yolact_tiny", "plus"): {"use_maskiou": True, "image_size": 256},
    ("centernet_triplet_hourglass52", "small"): SMALL,
}
"""Model and a word for what is special -> its options."""
NUM_ROWS = 7


@pytest.fixture(params=[*TINY, *OPTIONS], ids=" ".join)
def expanded(request, bundle_of):
    """A graph of a model without calls and loops, with the shapes that follow from its inputs.

    And the loops' values: (before, after) a turn.
    """
    name, graph = request.param
    if request.param in TINY:
        folder = bundle_of(name)
        raw = read_graph(folder, Manifest.load(folder), graph)
    else:
        model = edgeseg.create_model(name, **OPTIONS[request.param])
        graphs = trace_graphs(model, in_one_graph(model_manifest(model)))
        raw = complete_graph(graphs["main"]).to_bytes()
    model = onnx.load_from_string(inline_functions(raw))
    carried = []
    nodes = list(unrolled(model.graph.node, carried))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    fix_rows(model.graph)
    return shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph, carried


def fix_rows(graph):
    """Give the free rows of a stage a number, from which all other sizes must follow."""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "rows":
                dim.dim_value = NUM_ROWS


def unrolled(nodes, carried):
    """Yield the nodes with one turn of each loop in its place: shape inference looks into no loop."""
    for node in nodes:
        graphs = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        if not graphs:
            yield node
            continue
        assert node.op_type == "Loop", "other nodes with a body have shapes that depend on data"
        (body,) = graphs
        assert len(body.input) == len(node.input) == len(node.output) + 2, "it collects nothing"
        yield from identities(node.input, [value.name for value in body.input])
        yield from unrolled(body.node, carried)
        yield from identities([value.name for value in body.output][1:], node.output)
        carried += zip(node.input[2:], node.output, strict=True)


def identities(sources, targets):
    for source, target in zip(sources, targets, strict=True):
        if source:
            yield helper.make_node("Identity", [source], [target], name=f"{target} is {source}")


def shapes_of(graph):
    """Name of a value -> its shape; None stands for what is not known."""
    return {
        value.name: [
            dim.dim_value if dim.HasField("dim_value") else None
            for dim in value.type.tensor_type.shape.dim
        ]
        if value.type.tensor_type.HasField("shape")
        else None
        for value in (*graph.input, *graph.value_info, *graph.output)
    }


def test_engines_get_standard_operators_and_static_shapes(expanded):
    graph, carried = expanded
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
    assert {node.op_type for node in graph.node} & REFUSED == set()
    shapes = shapes_of(graph)
    values = {name for node in graph.node for name in node.output if name}
    assert values <= shapes.keys()
    assert {name: s for name, s in shapes.items() if s is None or None in s or 0 in s} == {}
    assert all(shapes[before] == shapes[after] for before, after in carried)
