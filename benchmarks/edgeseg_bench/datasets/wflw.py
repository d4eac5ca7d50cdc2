"""Reads and writes data sets in the file layout of WFLW: 98 points, box and attributes in one list."""

from __future__ import annotations

from pathlib import Path

from edgeseg_bench.datasets.base import Annotation, Dataset, DatasetError, lines_of
from edgeseg_bench.datasets.face_files import (
    FaceFiles,
    box_annotation,
    check_folder,
    check_limit,
    numbers_in,
    write_picture,
)
from edgeseg_bench.datasets.heads import NUM_LANDMARKS, POINTS_5_FROM_98

SPLITS = ("test", "train")
ATTRIBUTES = ("pose", "expression", "illumination", "make_up", "occlusion", "blur")
NUM_WORDS = 2 * NUM_LANDMARKS + 4 + len(ATTRIBUTES) + 1
LIST_FOLDER = "list_98pt_rect_attr_train_test"
LAYOUT = (
    f"Expected FOLDER/WFLW_annotations/{LIST_FOLDER}/list_98pt_rect_attr_SPLIT.txt and the pictures in "
    "FOLDER/WFLW_images/."
)


def open_wflw(
    folder: str | Path, split: str | None = None, *, limit: int | None = None
) -> FaceFiles:
    """Return the pictures of WFLW and their faces.

    An annotation has "points_98", "landmarks" (5, 2: pupils, tip of the nose, corners of the mouth), the
    box of the list and the attributes "pose", "expression", "illumination", "make_up", "occlusion" and
    "blur" (0 or 1), from which the test subsets follow. A picture with several faces is one sample.

    Args:
        folder: see LAYOUT.
        split: "test" or "train"; None = test.
        limit: use only the first pictures; None = all.

    Raises:
        DatasetError: a file is missing or damaged.
        ValueError: there is no such split, or the limit is not positive.
    """
    folder, split = Path(folder), split or "test"
    if split not in SPLITS:
        raise ValueError(f"WFLW has no split {split!r}: choose from {list(SPLITS)}.")
    check_limit(limit)
    check_folder(folder, LAYOUT)
    source, pictures = _list_file(folder, split), folder / "WFLW_images"
    if not source.is_file():
        raise DatasetError(f"There is no file {source}. {LAYOUT}")
    if not pictures.is_dir():
        raise DatasetError(f"{folder} has labels but no folder {pictures}. {LAYOUT}")
    faces: dict[str, list[Annotation]] = {}
    for line, text in enumerate(lines_of(source), 1):
        if text.strip():
            words = text.split()
            if len(words) != NUM_WORDS:
                raise DatasetError(
                    f"{source}, line {line}: found {len(words)} words, expected {NUM_WORDS}: 98 points, "
                    "x y x y of the box, 6 attributes, file name. Download the file again."
                )
            faces.setdefault(words[-1], []).append(_annotation(words[:-1], source, line))
    return FaceFiles(f"wflw:{split}", pictures, list(faces.items())[:limit])


def write_wflw(dataset: Dataset, folder: str | Path, *, split: str = "test") -> Path:
    """Write faces with 98 points in the layout of WFLW; `wflw:FOLDER` reads them back.

    Boxes are rounded to whole pixels, as in WFLW.

    Returns:
        The folder.

    Raises:
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    lines: list[str] = []
    for sample in dataset:
        name = f"0--Shapes/{Path(sample.file_name).stem}.png"
        write_picture(folder / "WFLW_images" / name, sample.image)
        for annotation in sample.annotations:
            x, y, width, height = annotation["bbox"]
            words = [f"{value:.6f}" for point in annotation["points_98"] for value in point]
            words += [str(round(value)) for value in (x, y, x + width, y + height)]
            words += [str(annotation.get(key, 0)) for key in ATTRIBUTES]
            lines.append(" ".join([*words, name]))
    target = _list_file(folder, split)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _list_file(folder: Path, split: str) -> Path:
    return folder / "WFLW_annotations" / LIST_FOLDER / f"list_98pt_rect_attr_{split}.txt"


def _annotation(words: list[str], source: Path, line: int) -> Annotation:
    values = numbers_in(words, source=source, line=line)
    points_N2 = values[: 2 * NUM_LANDMARKS].reshape(-1, 2)
    x1, y1, x2, y2 = values[2 * NUM_LANDMARKS : -len(ATTRIBUTES)].tolist()
    attributes = (int(value) for value in values[-len(ATTRIBUTES) :].tolist())
    return (
        box_annotation((x1, y1, x2 - x1, y2 - y1))
        | dict(zip(ATTRIBUTES, attributes, strict=True))
        | {
            "points_98": points_N2.tolist(),
            "landmarks": points_N2[list(POINTS_5_FROM_98)].tolist(),
        }
    )
