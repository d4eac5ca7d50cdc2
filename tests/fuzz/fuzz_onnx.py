"""ONNX files: small models of every operator, with fields, numbers, names and bytes changed."""

from __future__ import annotations

import functools
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from fuzz_frame import Kind
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, numpy_helper
from onnx_cases import NUMBERS, body_loop, fan, loop, model_of, mutants, node, tiny_model
from onnx_twins import assert_same_model, tensors_of
from operator_zoo import random_model

from edgeseg_export.functions.atlas_roi_align import atlas_roi_align_function
from edgeseg_export.functions.nms import nms_function
from edgeseg_runtime.backends import open_backend
from edgeseg_runtime.bundle.manifest import Artifact, Manifest, Preprocess, TensorSpec, one_graph
from edgeseg_runtime.errors import EngineBuildError
from edgeseg_runtime.onnx.check import check_graph
from edgeseg_runtime.onnx.model import DTYPES as ONNX_DTYPES
from edgeseg_runtime.onnx.model import ExternalData, read_model

# ---------------------------------------------------------------- models


def make(rng: random.Random) -> bytes:
    """Return the bytes of a model: a seed or one node of the zoo, changed in its meaning or its bytes."""
    if rng.random() < 0.5:
        model = random_model(rng)
    else:
        model = onnx.ModelProto.FromString(_seed(rng))
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        _mutate(model, rng)
    data = model.SerializeToString()
    if rng.random() < 0.3:
        (data,) = mutants(data, rng, 1)
    return data


def make_encoded(rng: random.Random) -> bytes:
    """Return the bytes of a model whose fields are changed, and how they are written."""
    if rng.random() < 0.3:
        content = random_model(rng).SerializeToString()
    else:
        content = _seed(rng)
    if rng.random() < 0.3:
        content = _with_external_data(content, rng)
    (mutant,) = mutants(content, rng, 1)
    return mutant


def _with_external_data(content: bytes, rng: random.Random) -> bytes:
    """Return a model of which one tensor, wherever it lies, keeps its data in a file."""
    model = onnx.ModelProto.FromString(content)
    tensors = list(tensors_of(model))
    if tensors:
        tensor = rng.choice(tensors)
        if rng.random() < 0.7:
            tensor.data_location = TensorProto.EXTERNAL
        if rng.random() < 0.7:
            tensor.external_data.add(key="location", value="secret.bin")
    return model.SerializeToString()


def _seed(rng: random.Random) -> bytes:
    """Return a seed; those that take long to read are rarer."""
    return rng.choices(seeds(), [len(seed) ** -0.3 for seed in seeds()])[0]


@functools.cache
def seeds() -> list[bytes]:
    """Return models with functions, loops and free axes."""
    boxes = (TensorProto.FLOAT, [1, 20, 4])
    models = [
        tiny_model(),
        body_loop(),
        fan(depth=2, width=2),
        loop([node("Identity", ["needed"], ["again"]), node("Neg", ["before"], ["after"])]),
        _called(nms_function, "Nms", 20, boxes, ["x", "scores"], ["y", "valid"], kind=7),
        _called(nms_function, "Nms", 1100, (1, [1, 1100, 4]), ["x", "scores"], ["y", "v"], kind=7),
        _pooled(boxes, 20),
        _pooled((TensorProto.FLOAT, [1, "rows", 4]), None),
        model_of(
            [
                node("Shape", ["x"], ["rows"], start=1, end=2),
                node("Concat", ["one", "rows", "four"], ["wanted"], axis=0),
                node("Expand", ["x", "wanted"], ["y"]),
            ],
            {"one": np.array([1]), "four": np.array([4])},
            x=(TensorProto.FLOAT, [1, "rows", 1]),
        ),
    ]
    return [model.SerializeToString() for model in models]


def _called(
    build: Any, name: str, count: int, x: Any, inputs: list[str], outputs: list[str], *, kind: int
) -> onnx.ModelProto:
    function = build(
        name, count, has_groups=False, iou_threshold=0.5, max_output=9, score_threshold=0.1
    )
    attributes = {"iou_threshold": 0.5, "max_output": 9, "score_threshold": 0.1}
    call = node(name, inputs, outputs, domain="edgeseg", **attributes)
    scores = np.linspace(0, 1, count, dtype=np.float32)[None]
    return model_of([call], {"scores": scores}, x=x, y=(kind, None), functions=[function])


def _pooled(boxes: Any, num_boxes: int | None) -> onnx.ModelProto:
    function = atlas_roi_align_function(
        "Align",
        3,
        num_boxes,
        level_sizes=[(16, 16), (8, 8)],
        strides=(4, 8),
        output_size=(2, 2),
        sampling_ratio=0,
        aligned=True,
        level_rule="torchvision",
        canonical_scale=224.0,
        canonical_level=4,
    )
    atlas = {"atlas": np.ones((1, 3, 24, 16), np.float32)}
    call = node("Align", ["atlas", "x"], ["y"], domain="edgeseg")
    return model_of([call], atlas, x=boxes, functions=[function])


# ---------------------------------------------------------------- mutations


def _mutate(model: onnx.ModelProto, rng: random.Random) -> None:
    """Change the meaning of one place."""
    bodies = [model.graph, *model.functions]
    for body in list(bodies):
        bodies += [a.g for item in body.node for a in item.attribute if a.HasField("g")]
    body = rng.choice(bodies)
    choice = rng.randrange(8)
    if choice == 0 and isinstance(body, onnx.GraphProto):
        _mutate_border(body, rng)
    elif choice in {1, 2, 3}:
        _mutate_constant(body, rng)
    elif body.node:
        item = rng.choice(body.node)
        names = [name for other in body.node for name in other.output] + ["x", ""]
        if choice == 4 and item.attribute:
            _mutate_attribute(rng.choice(item.attribute), rng)
        elif choice == 5 and item.input:
            item.input[rng.randrange(len(item.input))] = rng.choice(names)
        elif choice == 6:
            item.op_type = rng.choice(
                [other.op_type for other in body.node] + ["Loop", "If", "Neg"]
            )
        elif rng.random() < 0.5:
            item.input.append(rng.choice(names))
        else:
            item.output.append(rng.choice(("more", "y")))


def _mutate_border(graph: onnx.GraphProto, rng: random.Random) -> None:
    values = [*graph.input, *graph.output, *graph.value_info]
    if not values:
        return
    kind = rng.choice(values).type.tensor_type
    if rng.random() < 0.3:
        kind.elem_type = rng.choice((*ONNX_DTYPES, 0, 8, 14, 17, 99))
    elif kind.shape.dim:
        kind.shape.dim[rng.randrange(len(kind.shape.dim))].dim_value = rng.choice(NUMBERS[:9])
    else:
        kind.shape.dim.add(dim_value=rng.choice((1, 2, 3)))


def _mutate_constant(body: Any, rng: random.Random) -> None:
    """Change a number, the shape or the type of a constant."""
    found = [a.t for item in body.node for a in item.attribute if a.HasField("t")]
    found += list(getattr(body, "initializer", ()))
    if not found:
        return
    tensor = rng.choice(found)
    try:
        array = numpy_helper.to_array(tensor).copy()
    except (TypeError, ValueError):
        return
    choice = rng.randrange(4)
    if choice == 0:
        array = array.reshape(rng.choice(([-1], [1, -1], [-1, 1])))
    elif choice == 1 and array.size:
        array = array.reshape(-1)[: rng.randrange(array.size)]
    elif array.size:
        values = (0, 1, -1, 2, 7, 100, 4096, 10**6, 2**31 - 1, -(2**31), 2**62)
        with np.errstate(all="ignore"):
            number = np.array(rng.choice(values)).astype(array.dtype)
        array.reshape(-1)[rng.randrange(array.size)] = number
        if array.dtype.kind == "f" and rng.random() < 0.3:
            array.reshape(-1)[0] = rng.choice((np.nan, np.inf, -np.inf))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _mutate_attribute(attribute: AttributeProto, rng: random.Random) -> None:
    numbers = (0, 1, -1, 2, 3, 5, 8, 100, 32767, 32768, 2**31, 2**62, -(2**63))
    if attribute.type == AttributeProto.INT:
        attribute.i = rng.choice(numbers)
    elif attribute.type == AttributeProto.INTS and attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(numbers)
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = rng.choice((0.0, -1.0, 1e30, np.nan, np.inf))
    elif attribute.type == AttributeProto.STRING:
        attribute.s = rng.choice(
            (b"", b"linear", b"cubic", b"reflect", b"max", b"\xff", b"SAME_UPPER")
        )
    else:
        attribute.name = rng.choice(("axis", "value", "to", "body"))


# ---------------------------------------------------------------- targets


def check(data: bytes) -> str:
    """Check a model; what is accepted means the same to protobuf."""
    check_graph(data)
    return read(data)


def read(data: bytes) -> str:
    """Read a model; what is accepted is accepted by protobuf, which finds the same in it."""
    model = read_model(data)
    try:
        reference = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise AssertionError("accepted, and not a model to protobuf") from error
    assert_same_model(model, reference)
    return "accepted"


def read_or_refuse(data: bytes) -> str:
    """Read a model, or refuse it as one that keeps data elsewhere or that protobuf may read otherwise."""
    try:
        return read(data)
    except ValueError as error:
        return "external data" if isinstance(error, ExternalData) else "refused"


def run_engine(data: bytes, engine: str = "onnxruntime") -> str:
    """Load a model with an engine if it is accepted, and run it."""
    check_graph(data)
    model = read_model(data)
    inputs, outputs = (
        [
            TensorSpec(
                name=value.name,
                dtype=ONNX_DTYPES[value.dtype],
                shape=tuple(1 if size is None else size for size in value.shape or ()),
            )
            for value in values
        ]
        for values in (model.graph.inputs, model.graph.outputs)
    )
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        (Path(name) / "model.onnx").write_bytes(data)
        manifest = Manifest(
            name="fuzzed",
            task="instances",
            precision="fp32",
            graphs=one_graph(inputs, outputs),
            preprocess=Preprocess(height=8, width=8, resize="stretch"),
            artifacts={"onnx": Artifact(file="model.onnx", sha256="0" * 64, size_bytes=len(data))},
        )
        try:
            backend = open_backend(engine, name, manifest, threads=1, verify=False)
        except EngineBuildError:
            return "refused by the engine"
    rng = np.random.default_rng(0)
    feed = {spec.name: (rng.random(spec.shape) * 9).astype(spec.dtype) for spec in inputs}
    try:
        backend.backend.run(feed)
    finally:
        backend.close()
    return "ran"


READ = Kind(make_encoded, read_or_refuse, limit_s=30, limit_bytes=2**29, suffix=".onnx")
ENCODED = Kind(make, check, limit_s=30, limit_bytes=2**29, suffix=".onnx")
RUN = Kind(make, run_engine, limit_s=60, limit_bytes=3 * 2**30, suffix=".onnx")
OPENVINO = Kind(
    make,
    functools.partial(run_engine, engine="openvino"),
    limit_s=60,
    limit_bytes=3 * 2**30,
    suffix=".onnx",
)
