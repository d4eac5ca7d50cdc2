"""Manifests with values, keys and bytes changed."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from typing import Any

from fake_model import instance_manifest
from fake_panoptic import panoptic_manifest
from fuzz_frame import Kind

from edgeseg_runtime.bundle.manifest import Graph, Manifest, Rows, Schedule, TensorSpec, Variant
from edgeseg_runtime.errors import ManifestError
from edgeseg_runtime.tasks import create_task

NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    255,
    256,
    2**31 - 1,
    2**31,
    2**53,
    2**63,
    10**30,
    0.5,
    -0.0,
    1e308,
    1e-320,
)
TEXTS = (
    *(
        "",
        " ",
        "a",
        "main",
        "onnx",
        "instances",
        "keypoints",
        "landmarks",
        "panoptic",
        "float32",
        "int64",
        "1.0",
        "2.0",
    ),
    *(
        "3.0",
        "2.9",
        "../x",
        "/etc/passwd",
        "C:x",
        "a/b",
        "x" * 200,
        "x" * 5000,
        "\x1b[2J",
        "\ud800",
        "\u202e",
    ),
    *("\0", "NaN", "0" * 64, "letterbox", "square_crop", "affine", "detect.boxes", "state"),
)
TOKENS = (
    *(
        '"',
        "\\",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "null",
        "true",
        "NaN",
        "Infinity",
        "1e999",
        "-",
        "0x1",
    ),
    *('"\\ud800"', "\x00", "\ufeff", "9" * 5000, "[" * 40, '"a":1,"a":2', "\\u0000"),
)


def make(rng: random.Random) -> bytes:
    """Return the bytes of a manifest."""
    document = json.loads(rng.choice(SEEDS))
    if rng.random() < 0.9:
        document.pop("digest", None)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 6))):
        mutate(document, rng)
    separators = rng.choice(((",", ":"), (", ", ": "), (",\n ", ":\t")))
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5, separators=separators)
    while rng.random() < 0.15:
        text = with_token(text, rng)
    data = text.encode("utf-8", "surrogatepass")
    while rng.random() < 0.05 and data:
        position = rng.randrange(len(data))
        data = data[:position] + bytes([rng.randrange(256)]) + data[position + rng.randrange(3) :]
    return data


def run(data: bytes) -> str:
    """Read a manifest; one that is accepted comes back equal, and gives a task or a typed error."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "not UTF-8"
    manifest = Manifest.from_json(text)
    again = Manifest.from_json(manifest.to_json().encode("utf-8").decode("utf-8"))
    assert again == manifest, "what was written comes back otherwise"
    try:
        create_task(manifest)
    except ManifestError:
        return "no task"
    return "accepted"


def mutate(document: Any, rng: random.Random) -> None:
    """Change one place at any depth."""
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = rng.choice(keys)
        is_inner = isinstance(place[key], (dict, list)) and place[key]
        if not is_inner or rng.random() < 0.2:
            break
        place = place[key]
    choice = rng.randrange(7)
    if choice == 0:
        del place[key]
    elif choice == 1 and isinstance(place, dict):
        place[rng.choice(TEXTS)] = place.pop(key)
    elif choice == 2 and isinstance(place, list):
        is_small = len(json.dumps(place[key])) < 300
        place[key:key] = [copy.deepcopy(place[key])] * rng.choice(
            (1, 2, 1100) if is_small else (1,)
        )
    elif choice == 3:
        place[key] = copy.deepcopy(_any_of(document, rng))
    else:
        place[key] = _value(rng)


def _any_of(document: Any, rng: random.Random) -> Any:
    place = document
    while isinstance(place, (dict, list)) and place and rng.random() < 0.8:
        place = rng.choice(list(place.values()) if isinstance(place, dict) else place)
    return place


def _value(rng: random.Random) -> Any:
    choice = rng.randrange(8)
    if choice < 3:
        return rng.choice(NUMBERS)
    if choice < 5:
        return rng.choice(TEXTS)
    if choice == 5:
        return rng.choice((None, True, False, [], {}, [[]], {"": {}}))
    if choice == 6:
        return [rng.choice(NUMBERS) for _ in range(rng.choice((1, 2, 4, 9, 400)))]
    nested: Any = rng.choice(TEXTS)
    for _ in range(rng.choice((1, 3, 14, 18))):
        nested = [nested] if rng.random() < 0.5 else {rng.choice(TEXTS): nested}
    return nested


def with_token(text: str, rng: random.Random) -> str:
    position = rng.randrange(len(text) + 1)
    return text[:position] + rng.choice(TOKENS) + text[position + rng.randrange(4) :]


def _older() -> dict[str, Any]:
    """Return a document of schema 1.0: one graph, without a name."""
    image, points = (
        {"name": "image", "dtype": "uint8", "shape": [1, 32, 48, 3]},
        {"name": "points", "dtype": "float32", "shape": [1, 3, 2]},
    )
    return {
        "schema": "1.0",
        "requires": [],
        "name": "tiny",
        "task": "landmarks",
        "precision": "fp32",
        "inputs": [image],
        "outputs": [points, {"name": "scores", "dtype": "float32", "shape": [1, 3]}],
        "preprocess": {
            "height": 32,
            "width": 48,
            "resize": "square_crop",
            "interpolation": "linear",
            "rounding": "none",
            "pad_value": [1, 2, 3],
            "crop_margin": 1.1,
        },
        "keypoint_names": ["nose", "eye", "ear"],
        "skeleton": [[0, 1], [1, 2]],
        "artifacts": {"onnx": {"file": "model.onnx", "sha256": "0" * 64, "size_bytes": 308}},
        "state": [],
        "parity": {"reference": "x", "stages": {"a": 1e-06}, "max_abs": {"points": 1e-05}},
        "provenance": {"command": ["edgeseg", "export"], "config": {"image_size": [32, 48]}},
    }


def _stages() -> Manifest:
    """Return a model with a stage for each instance, in two shapes."""
    whole = instance_manifest(rows=100)
    boxes, scores, labels, masks = whole.outputs
    detect = Graph(artifact="onnx", inputs=whole.inputs, outputs=(boxes, scores, labels))
    rows = Rows(counts="scores", maximum=100, buckets=(4, 16, 100))
    free = {"shape": (-1, -1, 4)}
    mask = Graph(
        artifact="mask",
        inputs=(dataclasses.replace(boxes, **free),),
        outputs=(dataclasses.replace(masks, shape=(-1, -1, *masks.shape[2:])),),
        takes={"boxes": "detect.boxes"},
        rows=rows,
        weights="weights",
    )
    names = ("detect", "mask")
    schedule = Schedule(first=names, then=names)
    graphs = {"detect": detect, "mask": mask}
    other = Variant(preprocess=whole.preprocess, graphs=graphs, schedule=schedule)
    return dataclasses.replace(
        whole, graphs=graphs, schedule=schedule, variants={"portrait": other}
    )


def _video() -> Manifest:
    """Return a model that carries a map from frame to frame."""
    whole = instance_manifest()
    features = TensorSpec(name="features", dtype="float16", shape=(1, 8, 6, 8))
    key = Graph(
        inputs=whole.inputs,
        outputs=(*whole.outputs, features),
        writes={"features": "map"},
        kept=("features",),
    )
    before = dataclasses.replace(features, name="before")
    step = Graph(inputs=(*whole.inputs, before), outputs=whole.outputs, reads={"before": "map"})
    schedule = Schedule(first=("key",), then=("step",), first_every=5)
    return dataclasses.replace(whole, graphs={"key": key, "step": step}, schedule=schedule)


SEEDS = [
    *(m.to_json() for m in (instance_manifest(), instance_manifest(joints=3))),
    *(m.to_json() for m in (_stages(), _video(), panoptic_manifest())),
    json.dumps(_older()),
]
"""Manifests that are right."""
MANIFEST = Kind(make, run, limit_s=30, limit_bytes=2**29, suffix=".json")
