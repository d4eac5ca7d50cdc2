"""Reads and writes data sets in the file layout of WIDER FACE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgeseg_bench.datasets.base import Annotation, Dataset, DatasetError, lines_of
from edgeseg_bench.datasets.face_files import (
    FaceFiles,
    box_annotation,
    check_folder,
    check_limit,
    numbers_in,
    write_picture,
)
from edgeseg_bench.datasets.matlab import Value, read_matlab, write_matlab

SPLITS = ("val", "train")
SUBSETS = ("easy", "medium", "hard")
ATTRIBUTES = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")
LAYOUT = (
    "Expected FOLDER/wider_face_split/wider_face_SPLIT_bbx_gt.txt or FOLDER/SPLIT/label.txt, the pictures "
    "in FOLDER/WIDER_SPLIT/images/ or FOLDER/SPLIT/images/, and, for easy, medium and hard, "
    "FOLDER/ground_truth/wider_easy_val.mat and so on."
)
# Height from which a written face counts as easy, medium, hard; WIDER FACE's own sets come from the
# detection rate of EdgeBox, which goes with the height.
SUBSET_HEIGHTS = {"easy": 50.0, "medium": 30.0, "hard": 10.0}
EVENT = "0--Shapes"  # of written pictures; WIDER FACE sorts its pictures by events

Faces = dict[str, list[Annotation]]


def open_wider(
    folder: str | Path, split: str | None = None, *, limit: int | None = None
) -> FaceFiles:
    """Return the pictures of WIDER FACE and their faces.

    Boxes come from `wider_face_SPLIT_bbx_gt.txt` or, without it, from RetinaFace's `label.txt`. Further keys
    of an annotation, where the files are there:
        "subsets": which of easy, medium and hard count the face, from `wider_{easy,medium,hard}_val.mat`;
        "landmarks" (5, 2): eyes, tip of the nose, corners of the mouth, from `label.txt`;
        "blur", "expression", "illumination", "invalid", "occlusion", "pose": WIDER FACE's attributes.
    Faces that WIDER FACE calls invalid have iscrowd 1 and belong to no subset. Boxes without area are left out.

    Args:
        folder: see LAYOUT.
        split: "val" or "train"; None = val.
        limit: use only the first pictures; None = all.

    Raises:
        DatasetError: a file is missing, damaged or contradicts another.
        ValueError: there is no such split, or the limit is not positive.
    """
    folder, split = Path(folder), split or "val"
    if split not in SPLITS:
        raise ValueError(f"WIDER FACE has no labelled split {split!r}: choose from {list(SPLITS)}.")
    check_limit(limit)
    check_folder(folder, LAYOUT)
    boxes = folder / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
    labels = _first_file(
        folder / split / "label.txt", folder / "retinaface_gt_v1.1" / split / "label.txt"
    )
    if boxes.is_file():
        faces = _read_boxes(boxes)
        if labels is not None:
            _add_landmarks(faces, _read_labels(labels))
    elif labels is not None:
        faces = _read_labels(labels)
    else:
        raise DatasetError(f"{folder} has no labels for {split!r}. {LAYOUT}")
    if split == "val":
        _add_subsets(faces, folder)
    usable = [
        (file_name, [a for a in annotations if a["area"] > 0])
        for file_name, annotations in faces.items()
    ]
    return FaceFiles(f"wider:{split}", _pictures(folder, split), usable[:limit])


def write_wider(dataset: Dataset, folder: str | Path, *, split: str = "val") -> Path:
    """Write faces in the layout of WIDER FACE; `wider:FOLDER` reads them back.

    Boxes are rounded to whole pixels, as in WIDER FACE. Landmarks go to RetinaFace's `label.txt`. Without
    "subsets" in the annotations, easy, medium and hard follow from the height of the faces.

    Returns:
        The folder.

    Raises:
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    box_lines: list[str] = []
    label_lines: list[str] = []
    written: dict[str, tuple[Annotation, ...]] = {}
    for sample in dataset:
        stem = Path(sample.file_name).stem
        name = f"{EVENT}/{stem}.png"
        write_picture(folder / f"WIDER_{split}" / "images" / name, sample.image)
        written[stem] = sample.annotations
        box_lines += [name, str(len(sample.annotations))]
        label_lines.append(f"# {name}")
        for annotation in sample.annotations:
            box = " ".join(str(round(value)) for value in annotation["bbox"])
            attributes = " ".join(str(annotation.get(key, 0)) for key in ATTRIBUTES)
            box_lines.append(f"{box} {attributes}")
            label_lines.append(f"{box} {_landmark_text(annotation)}")
        if not sample.annotations:
            box_lines.append(" ".join("0" * 10))  # as WIDER FACE writes a picture without faces
    for target, lines in (
        (folder / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt", box_lines),
        (folder / split / "label.txt", label_lines),
    ):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if split == "val":
        _write_subsets(written, folder / "ground_truth")
    return folder


def _first_file(*candidates: Path) -> Path | None:
    return next((path for path in candidates if path.is_file()), None)


def _pictures(folder: Path, split: str) -> Path:
    candidates = (folder / f"WIDER_{split}" / "images", folder / split / "images")
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise DatasetError(
        f"{folder} has labels for {split!r} but no pictures: neither {candidates[0]} nor {candidates[1]} "
        f"is a folder. {LAYOUT}"
    )


def _read_boxes(source: Path) -> Faces:
    """Return the faces of `wider_face_SPLIT_bbx_gt.txt`: file name, number of faces, a line for each."""
    lines = lines_of(source)
    faces: Faces = {}
    row = 0
    while row < len(lines):
        name = lines[row].strip()
        row += 1
        if not name:
            continue
        count = lines[row].strip() if row < len(lines) else ""
        if not count.isdigit() or row + int(count) >= len(lines) + (count == "0"):
            raise DatasetError(
                f"{source}, line {row + 1}: expected the number of faces of {name!r} and a line for each, "
                f"found {count!r}. Download the file again."
            )
        row += 1
        num_lines = max(1, int(count))  # a picture without faces has a line of zeros
        rows = range(row, min(row + num_lines, len(lines)))
        found = [_face_of(lines[number].split(), source, number + 1) for number in rows]
        faces[name] = found if int(count) else []
        row += num_lines
    return faces


def _face_of(words: Sequence[str], source: Path, line: int) -> Annotation:
    values = numbers_in(words, source=source, line=line)
    if len(values) not in {4, 10}:
        raise DatasetError(
            f"{source}, line {line}: a face has 4 numbers (x, y, width, height) or those and 6 attributes, "
            f"found {len(values)}. Download the file again."
        )
    annotation = box_annotation(values[:4].tolist())
    attributes = {
        key: int(value) for key, value in zip(ATTRIBUTES, values[4:].tolist(), strict=False)
    }
    if attributes.get("invalid"):
        attributes |= {"iscrowd": 1}
        annotation["subsets"] = []
    return annotation | attributes


def _read_labels(source: Path) -> Faces:
    """Return the faces of RetinaFace's `label.txt`: "# file name", then a line for each face.

    A line holds the box and, in the training split, five times x, y, flag, and the picture's quality;
    coordinates of -1 mean that the face was too small to be labelled.
    """
    faces: Faces = {}
    current: list[Annotation] | None = None
    for line, text in enumerate(lines_of(source), 1):
        if text.startswith("#"):
            current = faces.setdefault(text[1:].strip(), [])
            continue
        if not text.strip():
            continue
        values = numbers_in(text.split(), source=source, line=line)
        if current is None or (len(values) != 4 and len(values) < 19):
            raise DatasetError(
                f"{source}, line {line}: expected '# FILE', then for each face 4 numbers or 19 and more "
                f"(box, 5 landmarks), found {text[:60]!r}. Download the file again."
            )
        annotation = box_annotation(values[:4].tolist())
        if len(values) >= 19 and values[4] >= 0:
            annotation["landmarks"] = values[4:19].reshape(5, 3)[:, :2].tolist()
        current.append(annotation)
    return faces


def _add_landmarks(faces: Faces, labels: Faces) -> None:
    """Copy the landmarks to the faces that have the same box."""
    for name, labelled in faces.items():
        known = {
            tuple(label["bbox"]): label["landmarks"]
            for label in labels.get(name, [])
            if "landmarks" in label
        }
        for annotation in labelled:
            landmarks = known.get(tuple(annotation["bbox"]))
            if landmarks is not None:
                annotation["landmarks"] = landmarks


def _add_subsets(faces: Faces, folder: Path) -> None:
    """Note which faces the official evaluation counts, if its ground truth is there."""
    places = (folder / "ground_truth", folder / "eval_tools" / "ground_truth", folder)
    sources = {
        subset: _first_file(*(place / f"wider_{subset}_val.mat" for place in places))
        for subset in SUBSETS
    }
    present = {subset: source for subset, source in sources.items() if source is not None}
    if not present:
        return
    missing = sorted(set(SUBSETS) - set(present))
    if missing:
        raise DatasetError(
            f"{folder} has the ground truth of {sorted(present)} but not of {missing}: put all three "
            "wider_*_val.mat into FOLDER/ground_truth, or none of them."
        )
    for labelled in faces.values():
        for annotation in labelled:
            annotation["subsets"] = []
    by_stem = {str(Path(name).with_suffix("")): annotations for name, annotations in faces.items()}
    for subset, source in present.items():
        for name, numbers in _read_subset(source).items():
            annotations = by_stem.get(name, [])
            if name in by_stem and max(numbers, default=0) > len(annotations):
                raise DatasetError(
                    f"{source} counts face {max(numbers)} of {name!r}, the labels have {len(annotations)}: "
                    "they are of different versions. Download both again."
                )
            for number in numbers if annotations else ():
                annotations[number - 1]["subsets"].append(subset)


def _read_subset(source: Path) -> Mapping[str, list[int]]:
    """Return the numbers, from 1, of the faces that count in each picture "event/name"."""
    content = read_matlab(source, ("event_list", "file_list", "gt_list"))
    numbers: dict[str, list[int]] = {}
    lists = (_cells(content[key], source) for key in ("event_list", "file_list", "gt_list"))
    for event, files, counted in zip(*lists, strict=True):
        pairs = zip(_cells(files, source), _cells(counted, source), strict=True)
        for file, faces in pairs:
            if isinstance(faces, (list, str)):
                raise DatasetError(
                    f"{source}: the faces of {file} are not numbers. Download it again."
                )
            numbers[f"{event}/{file}"] = np.asarray(faces, dtype=np.int64).ravel().tolist()
    return numbers


def _cells(value: Value, source: Path) -> list[Value]:
    if not isinstance(value, list):
        raise DatasetError(f"{source}: expected a cell array of events. Download it again.")
    return value


def _landmark_text(annotation: Annotation) -> str:
    landmarks = annotation.get("landmarks")
    if landmarks is None:
        return " ".join(["-1.0"] * 15 + ["0.0"])
    return " ".join(f"{x:.3f} {y:.3f} 0.0" for x, y in landmarks) + " 1.0"


def _write_subsets(written: Mapping[str, tuple[Annotation, ...]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for subset in SUBSETS:
        counted: list[Value] = [
            np.array(
                [[n] for n, a in enumerate(annotations, 1) if _counts(a, subset)], dtype=np.float64
            ).reshape(-1, 1)
            for annotations in written.values()
        ]
        variables: dict[str, Value] = {
            "event_list": [EVENT],
            "file_list": [list(written)],
            "gt_list": [counted],
        }
        write_matlab(folder / f"wider_{subset}_val.mat", variables)


def _counts(annotation: Annotation, subset: str) -> bool:
    if "subsets" in annotation:
        return subset in annotation["subsets"]
    return bool(annotation["bbox"][3] >= SUBSET_HEIGHTS[subset])
