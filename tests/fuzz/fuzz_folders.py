"""Folders of bundles, data sets and results: links, holes, wrong types, names and contents changed."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import io
import json
import os
import random
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import fuzz_manifests
import fuzz_pictures
import numpy as np
from folder_plans import Plan, as_somebody_else, encoded, random_steps, seen, stage
from fuzz_frame import Kind
from tiny_bundle import write_bundle

from edgeseg.cli import main
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.datasets.segmentation import mask_from_segmentation
from edgeseg_bench.datasets.segmentation import rle_from_mask as rle_of
from edgeseg_bench.evaluation import measure_accuracy
from edgeseg_export.folder import new_folder
from edgeseg_runtime import load
from edgeseg_runtime.bundle.manifest import Manifest, read_artifact
from edgeseg_runtime.errors import EdgesegError
from edgeseg_runtime.results.rle import rle_from_mask

NOT_OURS = ("mistake in edgeseg", "Traceback", "\x1b")
"""What no message may hold."""

# ---------------------------------------------------------------- plans


@functools.cache
def bundle_files() -> dict[str, bytes]:
    """Return the files of a bundle that is right."""
    with tempfile.TemporaryDirectory() as name:
        write_bundle(Path(name))
        return {path.name: path.read_bytes() for path in Path(name).iterdir()}


@functools.cache
def picture_files() -> dict[str, bytes]:
    """Return three pictures."""
    noise = np.random.default_rng(0)
    images = {
        name: noise.integers(0, 256, (12, 16, 3), np.uint8) for name in ("1.png", "2.jpg", "3.png")
    }
    return {
        name: cv2.imencode(Path(name).suffix, image)[1].tobytes() for name, image in images.items()
    }


def make(rng: random.Random) -> bytes:
    """Return the plan of a folder and what is done with it."""
    return rng.choice(
        (_bundle_plan, _bundle_plan, _replacement_plan, _dataset_plan, _dataset_plan, _run_plan)
    )(rng)


def _bundle_plan(rng: random.Random) -> bytes:
    files = {f"place/{name}": content for name, content in bundle_files().items()}
    if rng.random() < 0.4:
        files["place/manifest.json"] = _manifest_changed(rng)
    steps = random_steps(rng, list(files))
    use = rng.choice(("read", "read", "read", "read", "load", "inspect"))
    return encoded(files, steps, use=use, is_somebody_else=rng.random() < 0.3)


def _manifest_changed(rng: random.Random) -> bytes:
    document = json.loads(bundle_files()["manifest.json"])
    del document["digest"]
    entry = document["artifacts"]["onnx"]
    names = (
        "../beside/secret.txt",
        "/etc/passwd",
        "sub/model.onnx",
        "model.onnx/",
        "manifest.json",
        "notes.txt",
    )
    key = rng.choice(("file", "file", "size_bytes", "sha256"))
    changes = {
        "file": rng.choice(
            (*names, "link/secret.txt", "engines", "engines/mine.engine", "\udcff", "")
        ),
        "size_bytes": rng.choice((0, 1, 2**31 - 1, 2**33, 2**40, entry["size_bytes"] + 1)),
        "sha256": "0" * 64,
    }
    entry[key] = changes[key]
    if rng.random() < 0.5:
        document["artifacts"]["more"] = dict(
            entry, file=rng.choice((*names, "engines", "link/secret.txt"))
        )
    return json.dumps(document).encode()


def _replacement_plan(rng: random.Random) -> bytes:
    files = {f"place/{name}": content for name, content in bundle_files().items()}
    files |= {
        "place/notes.txt": b"mine",
        "place/engines/mine.engine": b"built",
        "place/link/own.txt": b"mine",
    }
    if rng.random() < 0.5:
        files["place/manifest.json"] = _manifest_changed(rng)
    steps = random_steps(rng, [*files, ".place.0123abcd.partial/old/notes.txt"])
    if rng.random() < 0.3:
        steps += [
            ["remove", "place/link"],
            ["link", "place/link", rng.choice(("../beside", "/nowhere", "."))],
        ]
    if rng.random() < 0.2:
        steps += [["link", ".place.0123abcd.partial", rng.choice(("beside", "place", "/nowhere"))]]
        steps += [["write", "beside/edgeseg.lock", ""]] if rng.random() < 0.5 else []
    return encoded(files, steps, use="replace", is_somebody_else=rng.random() < 0.2)


LAYOUTS = (
    ("annotations/instances_val2017.json", "val2017", ""),
    ("annotations/instances_train.json", "images/train", ":train"),
    ("valid/_annotations.coco.json", "valid", ""),
    ("annotations.json", "images", ""),
    ("labels.json", "data", ""),
    ("result.json", "images", ""),
    ("_annotations.coco.json", ".", "/_annotations.coco.json"),
)
"""Annotation file, folder of the pictures, and what follows the data set's folder in its name."""


def _dataset_plan(rng: random.Random) -> bytes:
    file, pictures, suffix = rng.choice(LAYOUTS)
    files = {f"place/{pictures}/{name}": content for name, content in picture_files().items()}
    if rng.random() < 0.2:
        files[rng.choice(list(files))] = fuzz_pictures.make(rng)
    document = copy.deepcopy(_annotations())
    for _ in range(rng.choice((0, 0, 1, 1, 1, 2))):
        fuzz_manifests.mutate(document, rng)
    text = json.dumps(document)
    if rng.random() < 0.15:
        text = fuzz_manifests.with_token(text, rng)
    content = text.encode(
        rng.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16")), "surrogatepass"
    )
    steps = random_steps(rng, list(files)) if rng.random() < 0.5 else []
    if rng.random() < 0.2:
        steps += random_steps(rng, [f"place/{file}"])
    files[f"place/{file}"] = content
    kind = rng.choice((None, None, "person_keypoints"))
    name = f"place{suffix}"
    return encoded(
        files, steps, use="dataset", name=name, kind=kind, is_somebody_else=rng.random() < 0.2
    )


def _annotations() -> dict[str, Any]:
    images = [
        {"id": number, "file_name": name, "height": 12, "width": 16}
        for number, name in enumerate(picture_files(), 1)
    ]
    common = {"area": 20.0, "iscrowd": 0, "category_id": 1}
    rle = {"size": [12, 16], "counts": [20, 5, 7, 5, 155]}
    mask = np.zeros((12, 16), np.bool_)
    mask[8:, 1:3] = True
    crowd = {**common, "iscrowd": 1, "bbox": [1, 8, 2, 5], "segmentation": rle}
    polygon = {**common, "bbox": [2, 3, 5, 4], "segmentation": [[2, 3, 7, 3, 7, 7.5, 2, 7]]}
    person = {**polygon, "keypoints": [3, 4, 2] * 17, "num_keypoints": 17}
    compressed = {
        **common,
        "bbox": [1, 8, 2, 5],
        "segmentation": {"size": [12, 16], "counts": rle_from_mask(mask)},
    }
    annotations = [polygon, crowd, person, {**compressed, "category_id": 2}]
    categories = [{"id": 1, "name": "cat", "supercategory": "animal"}, {"id": 2, "name": "dog"}]
    return {
        "info": {"year": 2024},
        "images": images,
        "annotations": [
            {"id": number, "image_id": 1 + number % 3, **annotation}
            for number, annotation in enumerate(annotations, 1)
        ],
        "categories": categories,
    }


def _run_plan(rng: random.Random) -> bytes:
    files = {f"pictures/{name}": content for name, content in picture_files().items()}
    if rng.random() < 0.2:
        files[rng.choice(list(files))] = fuzz_pictures.make(rng)
    names = [*(f"out/{Path(name).stem}.jpg" for name in picture_files()), "out/predictions.json"]
    paths = [*files, *names, "out/.edgeseg.0123abcd.partial/old.jpg", "pictures/more/4.png"]
    steps = random_steps(rng, paths)
    if rng.random() < 0.15:
        steps += [
            ["remove", "out"],
            ["link", "out", rng.choice(("pictures", "beside", "/nowhere", "out"))],
        ]
    if rng.random() < 0.15:
        steps += [
            ["link", "out/.edgeseg.0123abcd.partial", rng.choice(("../beside", "../pictures"))]
        ]
        steps += [["write", "beside/edgeseg.lock", ""]] if rng.random() < 0.7 else []
    if rng.random() < 0.1:
        steps += [
            ["folder", "pictures/more"],
            ["link", "pictures/more/again", rng.choice((".", "..", "../../beside"))],
        ]
        steps += [["link", "pictures/more/twice", "."]]
    options = [
        option
        for option in ("--overwrite", "--recursive", "--no-draw", "--json")
        if rng.random() < 0.4
    ]
    out = rng.choice(("out", "out", "out", "pictures", "out/deep/er", "out/\udcff"))
    return encoded(
        files, steps, use="run", out=out, options=options, is_somebody_else=rng.random() < 0.1
    )


# ---------------------------------------------------------------- targets


def use(data: bytes) -> str:
    """Carry out a plan and what it is for; nothing beside is touched, nothing of the user's lost."""
    plan = json.loads(data)
    _import_everything()
    with stage(plan) as root:
        before = seen(root)
        try:
            with as_somebody_else(plan["is_somebody_else"]):
                word = _USES[plan["use"]](root, plan)
        finally:
            _check_beside(before, seen(root))
    return word


@functools.cache
def _import_everything() -> None:
    """Let every command do something: who may not read anything cannot import anything, too."""
    with stage({"steps": []}) as root:
        _write_bundle(root / "place")
        (root / "pictures").mkdir()
        for name, content in picture_files().items():
            (root / "pictures" / name).write_bytes(content)
        plan = {"out": "out", "options": []}
        assert (_inspect(root, plan), _run(root, plan)) == ("inspected 0", "run 0")
        assert _run(root, plan) == "run 2"
        (root / "labels.json").write_text(json.dumps(_annotations()), encoding="utf-8-sig")
        plan = {"name": "labels.json", "kind": None}
        (root / "images").mkdir()
        for name, content in picture_files().items():
            (root / "images" / name).write_bytes(content)
        assert _dataset(root, plan) == "data set read"


def _check_beside(before: dict[str, Any], after: dict[str, Any]) -> None:
    for path, what in before.items():
        if path.startswith("beside"):
            assert after.get(path) == what, f"{path!a} beside was touched"


def _read(root: Path, _plan: Plan) -> str:
    """Read all files of a bundle: what is accepted is what the manifest says, and no link."""
    place = root / "place"
    manifest = Manifest.load(place)
    for artifact in manifest.artifacts.values():
        content = read_artifact(place, artifact)
        assert hashlib.sha256(content).hexdigest() == artifact.sha256
        path = place / artifact.file
        assert stat.S_ISREG(path.lstat().st_mode), "no plain file"
        assert path.resolve() == place.resolve() / artifact.file, "behind a link"
    return "bundle read"


@functools.cache
def _picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)


@functools.cache
def _result() -> Any:
    with tempfile.TemporaryDirectory() as name:
        write_bundle(Path(name))
        with load(name, backend="onnxruntime", threads=1) as predictor:
            return predictor(_picture())


def _load(root: Path, _plan: Plan) -> str:
    """Run a bundle: what runs is the model as it was made."""
    with load(root / "place", backend="onnxruntime", threads=1) as predictor:
        found = predictor(_picture())
    assert np.array_equal(found.scores, _result().scores)
    assert np.array_equal(found.masks, _result().masks)
    return "bundle run"


def _inspect(root: Path, _plan: Plan) -> str:
    return f"inspected {_command('inspect', root / 'place', '--json')}"


def _replace(root: Path, _plan: Plan) -> str:
    """Put a bundle in the place of what is there: all that is not listed stays, or all stays."""
    place = root / "place"
    before = seen(root)
    try:
        with new_folder(place, overwrite=True) as fresh:
            for name, content in bundle_files().items():
                (fresh / name).write_bytes(content)
    except (OSError, EdgesegError):
        word = "not replaced"
    else:
        word = "replaced"
        _read(root, {})
    after = seen(root)
    listed = _listed(before) if word == "replaced" else set()
    for path, what in before.items():
        is_hidden = path.startswith(".place.") and not stat.S_ISLNK(what[0])
        if path.startswith("place/") and path not in listed and not is_hidden:
            assert _is_kept(path, what, after), f"{path!a} is lost"
    return word


def _is_kept(path: str, what: tuple[Any, ...], after: dict[str, Any]) -> bool:
    """Tell whether a file is where it was; a folder's content is looked at by itself."""
    return path in after and (after[path][1:] == what[1:])


def _listed(before: dict[str, Any]) -> set[str]:
    """Return what a bundle may lose: the files of its manifest that are files in it."""
    if "place/manifest.json" not in before:
        return set()
    document = json.loads(before["place/manifest.json"][2])
    names = [f"place/{entry['file']}" for entry in document["artifacts"].values()]
    return {"place/manifest.json", "place/model.onnx", *names} - {
        name for name in names if name in before and stat.S_ISDIR(before[name][0])
    }


def _dataset(root: Path, plan: Plan) -> str:
    """Read a data set: what is accepted can be measured."""
    dataset = open_dataset(
        f"coco:{root / plan['name']}", kind=plan["kind"], on_picture=lambda done, total: None
    )
    for sample in dataset:
        assert sample.image.dtype == np.uint8
        assert sample.image.ndim == 3
        for annotation in sample.annotations:
            assert annotation["image_id"] == sample.image_id
    truth = dataset.coco()
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    found = [
        _found(annotation, *sizes[annotation["image_id"]]) for annotation in truth["annotations"]
    ]
    outputs = Manifest.from_json(bundle_files()["manifest.json"].decode())
    measure_accuracy(outputs, truth, found)
    return "data set read"


def _found(annotation: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """Return an annotation as a model would have found it."""
    shape = annotation.get("segmentation")
    if shape is None:
        return {**annotation, "score": 0.5}
    mask = mask_from_segmentation(shape, height=height, width=width)
    return {**annotation, "score": 0.5, "segmentation": rle_of(mask)}


def _write_bundle(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in bundle_files().items():
        (folder / name).write_bytes(content)


def _run(root: Path, plan: Plan) -> str:
    """Run a bundle: no source changes, and nothing else that the command did not write before."""
    _write_bundle(root / "bundle")
    before = seen(root)
    options = [*plan["options"], "--score", "0", "--threads", "1", "--backend", "onnxruntime"]
    code = _command("run", root / "bundle", root / "pictures", "-o", root / plan["out"], *options)
    after = seen(root)
    may_replace = "--overwrite" in plan["options"]
    out = os.path.relpath(os.path.realpath(root / plan["out"]), root)
    written = {f"{out}/{name}" for name in ("1.jpg", "2.jpg", "3.jpg", "predictions.json")}
    written |= {f"{out}/{Path(name).stem}.jpg" for name in before}
    for path, what in before.items():
        if path.startswith("out/.edgeseg.") or (may_replace and path in written):
            continue
        if (
            not path.startswith("pictures")
            and not path.startswith("out")
            and not path.startswith("bundle")
        ):
            continue
        assert after.get(path) == what, f"{path!a} was touched"
    hidden = [p for p in after.keys() - before.keys() if Path(p).name.startswith(".edgeseg.")]
    assert not hidden, f"hidden is left: {hidden}"
    return f"run {code}"


def _command(*arguments: Any) -> int:
    """Run a command and return its exit code; what it says is fit to be read."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = main(
            [
                os.fspath(argument) if isinstance(argument, Path) else argument
                for argument in arguments
            ]
        )
    text = out.getvalue() + errors.getvalue()
    wrong = [word for word in NOT_OURS if word in text]
    assert not wrong, text[-300:]
    assert code in {0, 1, 2, 3}, f"{code}: {text[-300:]}"
    return code


_USES: dict[str, Callable[[Path, Plan], str]] = {
    "read": _read,
    "load": _load,
    "inspect": _inspect,
    "replace": _replace,
    "dataset": _dataset,
    "run": _run,
}


FOLDER = Kind(make, use, limit_s=60, limit_bytes=2**30, suffix=".json")
