"""Bundles of several graphs, made of a few ONNX nodes each: two of videos, one with a stage with rows.

What is found depends on all that is carried along, and `expected` computes it in NumPy, so that results
tell whether the state is the right one.

    key_step    every fifth frame the graph `key` writes the state, in the others `step` reads it
    seed_main   `seed` writes the state in the first frame, `main` reads and writes it in every one
    staged      `detect` finds as many things as the picture is bright, `mask` runs once for each
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeseg_runtime.bundle.graphs import Graph, Rows, Schedule
from edgeseg_runtime.bundle.manifest import Artifact, Manifest, Preprocess, TensorSpec

HEIGHT, WIDTH, K, M = 32, 48, 6, 8
CELLS = 4
MEMORY = (1, 4, 64, 64)
"""Shape of the larger of the two state tensors."""
BOXES = np.array([[[4 * k, 2 * k, 4 * k + 20, 2 * k + 16] for k in range(K)]], np.float32)
KINDS = ("key_step", "seed_main", "staged")

_TYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int32": TensorProto.INT32}


class Nodes:
    """A graph that grows node by node; each method returns the name of the new tensor."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def __call__(self, operator, *inputs, name=None, **attributes):
        names = [item if isinstance(item, str) else self.constant(item) for item in inputs]
        name = name or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [name], name=name, **attributes))
        return name

    def constant(self, array):
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def pooled(self):
        """The picture in CELLS x CELLS means of 0..1."""
        picture = self("Transpose", self("Cast", "image", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
        size = [HEIGHT // CELLS, WIDTH // CELLS]
        pooled = self("AveragePool", picture, kernel_shape=size, strides=size)
        return self("Mul", pooled, np.float32(1 / 255))

    def mean(self, tensor, axes=(1, 2, 3), keepdims=1):
        return self("ReduceMean", tensor, axes=list(axes), keepdims=keepdims)

    def memory(self, tensor, shape):
        """The mean of a tensor in every place of the large state tensor."""
        return self("Mul", self.mean(tensor), np.ones(shape, np.float32), name="new_memory")

    def detections(self, level):
        """Boxes that grow and scores that rise with a level (1, 1, 1, 1) of 0..1."""
        row = self("Reshape", level, np.array([1, 1, 1]))
        self(
            "Mul",
            self("Add", self("Mul", row, np.float32(0.5)), np.float32(0.5)),
            BOXES,
            name="boxes",
        )
        falling = np.linspace(0.9, 0.4, K, dtype=np.float32)[None]
        scale = self(
            "Add",
            self("Mul", self("Reshape", level, np.array([1, 1])), np.float32(0.5)),
            np.float32(0.5),
        )
        self("Mul", scale, falling, name="scores")
        self("Identity", np.ones((1, K), np.int32), name="labels")

    def model(self, inputs, outputs):
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [_value_info(spec) for spec in inputs],
            [_value_info(spec) for spec in outputs],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return model


IMAGE = TensorSpec(name="image", dtype="uint8", shape=(1, HEIGHT, WIDTH, 3))
DETECTIONS = (
    TensorSpec(name="boxes", dtype="float32", shape=(1, K, 4)),
    TensorSpec(name="scores", dtype="float32", shape=(1, K)),
    TensorSpec(name="labels", dtype="int32", shape=(1, K)),
)


def _map(name):
    return TensorSpec(name=name, dtype="float32", shape=(1, 3, CELLS, CELLS))


def _large(name, shape):
    return TensorSpec(name=name, dtype="float32", shape=shape)


def _key_step(shape):
    key, step = Nodes(), Nodes()
    level = key.mean(key("Identity", key.pooled(), name="new_map"))
    key.memory("new_map", shape)
    key.detections(level)
    mixed = step("Add", step.mean("map"), step.mean("memory"))
    mixed = step(
        "Add",
        step("Mul", mixed, np.float32(0.25)),
        step("Mul", step.mean(step.pooled()), np.float32(0.5)),
    )
    step.detections(mixed)
    kept = (_map("new_map"), _large("new_memory", shape))
    graphs = {
        "key": Graph(
            artifact="key",
            inputs=(IMAGE,),
            outputs=(*DETECTIONS, *kept),
            writes={"new_map": "map", "new_memory": "memory"},
            kept=("new_map", "new_memory"),
        ),
        "step": Graph(
            artifact="step",
            inputs=(IMAGE, _map("map"), _large("memory", shape)),
            outputs=DETECTIONS,
            reads={"map": "map", "memory": "memory"},
        ),
    }
    schedule = Schedule(first=("key",), then=("step",), first_every=5)
    return graphs, schedule, {"key": key, "step": step}


def _seed_main(shape):
    seed, main = Nodes(), Nodes()
    seed("Identity", seed.pooled(), name="new_map")
    seed.memory("new_map", shape)
    half = np.float32(0.5)
    moved = main("Mul", main("Add", "map", main.pooled()), half, name="new_map")
    main("Add", main("Mul", "memory", half), main("Mul", main.mean(moved), half), name="new_memory")
    main.detections(main("Mul", main("Add", main.mean(moved), main.mean("new_memory")), half))
    kept = (_map("new_map"), _large("new_memory", shape))
    writes = {"new_map": "map", "new_memory": "memory"}
    graphs = {
        "seed": Graph(
            artifact="seed", inputs=(IMAGE,), outputs=kept, writes=writes, kept=tuple(writes)
        ),
        "main": Graph(
            artifact="onnx",
            inputs=(IMAGE, _map("map"), _large("memory", shape)),
            outputs=(*DETECTIONS, *kept),
            reads={"map": "map", "memory": "memory"},
            writes=writes,
            kept=tuple(writes),
        ),
    }
    return graphs, Schedule(first=("seed", "main"), then=("main",)), {"seed": seed, "main": main}


def _staged(shape):
    detect, mask = Nodes(), Nodes()
    level = detect.mean(detect("Identity", detect.pooled(), name="features"))
    detect("Mul", detect("Reshape", level, np.array([1, 1, 1])), BOXES, name="boxes")
    # Of a level of r / K the first r scores are above 0.
    found = detect("Mul", detect("Reshape", level, np.array([1, 1])), np.float32(K))
    above = detect("Sub", found, np.arange(K, dtype=np.float32)[None])
    detect(
        "Clip", detect("Mul", above, np.float32(1 / K)), np.float32(0), np.float32(1), name="scores"
    )
    detect("Identity", np.ones((1, K), np.int32), name="labels")
    width = mask.mean("boxes", axes=(2,), keepdims=0)
    rows = mask(
        "Mul", mask("Unsqueeze", width, np.array([2, 3])), np.full((1, 1, M, M), 0.02, np.float32)
    )
    mask("Add", rows, mask.mean("features"), name="masks")
    free = TensorSpec(name="boxes", dtype="float32", shape=(1, -1, 4))
    graphs = {
        "detect": Graph(
            artifact="detect",
            inputs=(IMAGE,),
            outputs=(*DETECTIONS, _map("features")),
            kept=("features",),
        ),
        "mask": Graph(
            artifact="mask",
            inputs=(_map("features"), free),
            outputs=(TensorSpec(name="masks", dtype="float32", shape=(1, -1, M, M)),),
            takes={"features": "detect.features", "boxes": "detect.boxes"},
            rows=Rows(counts="scores", maximum=K, buckets=(1, 4, K)),
        ),
    }
    order = ("detect", "mask")
    return graphs, Schedule(first=order, then=order), {"detect": detect, "mask": mask}


_MAKERS = {"key_step": _key_step, "seed_main": _seed_main, "staged": _staged}


def write_stateful_bundle(folder: Path, kind: str, *, memory: tuple[int, ...] = MEMORY) -> Manifest:
    """Write a bundle of one of `KINDS` and return its manifest."""
    graphs, schedule, nodes = _MAKERS[kind](memory)
    folder.mkdir(parents=True, exist_ok=True)
    artifacts = {}
    for name, graph in graphs.items():
        content = nodes[name].model(graph.inputs, graph.outputs).SerializeToString()
        file = f"{name}.onnx"
        (folder / file).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        artifacts[graph.artifact] = Artifact(file=file, sha256=digest, size_bytes=len(content))
    manifest = Manifest(
        name=kind,
        task="instances",
        precision="fp32",
        graphs=graphs,
        schedule=schedule,
        preprocess=Preprocess(height=HEIGHT, width=WIDTH, resize="stretch"),
        postprocess={"mask_paste": "expanded_box"} if kind == "staged" else {},
        labels=("__background__", "thing"),
        category_ids=(0, 1),
        artifacts=artifacts,
    )
    manifest.save(folder)
    return manifest


def pictures(
    count: int, *, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> list[np.ndarray]:
    """Return random pictures of a random brightness each."""
    rng = np.random.default_rng(seed)
    return [(rng.random((*size, 3)) * rng.uniform(40, 255)).astype(np.uint8) for _ in range(count)]


def expected(kind: str, frames: list[np.ndarray]) -> list[np.ndarray]:
    """Return the scores that a stream of frames of the network's size must give, without an engine."""
    levels = []
    kept, memory = 0.0, 0.0
    for number, frame in enumerate(frames):
        now = frame.astype(np.float64).mean() / 255
        if kind == "key_step":
            level = now if number % 5 == 0 else 0.25 * (kept + memory) + 0.5 * now
            if number % 5 == 0:
                kept = memory = now
        else:
            kept, memory = (now, now) if number == 0 else (kept, memory)
            kept = 0.5 * (kept + now)
            memory = 0.5 * (memory + kept)
            level = 0.5 * (kept + memory)
        levels.append(level)
    return [np.linspace(0.9, 0.4, K) * (0.5 + 0.5 * level) for level in levels]


def _value_info(spec):
    shape = ["rows" if size == -1 else size for size in spec.shape]
    return helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], shape)
