"""Class names and category ids of the data sets that official checkpoints were trained on."""

from __future__ import annotations

from collections.abc import Iterable

BACKGROUND = "__background__"

_COCO = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train",
    8: "truck", 9: "boat", 10: "traffic light", 11: "fire hydrant", 13: "stop sign",
    14: "parking meter", 15: "bench", 16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep",
    21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe", 27: "backpack",
    28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee", 35: "skis",
    36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat", 40: "baseball glove",
    41: "skateboard", 42: "surfboard", 43: "tennis racket", 44: "bottle", 46: "wine glass",
    47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl", 52: "banana", 53: "apple",
    54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot", 58: "hot dog", 59: "pizza",
    60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed",
    67: "dining table", 70: "toilet", 72: "tv", 73: "laptop", 74: "mouse", 75: "remote",
    76: "keyboard", 77: "cell phone", 78: "microwave", 79: "oven", 80: "toaster", 81: "sink",
    82: "refrigerator", 84: "book", 85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear",
    89: "hair drier", 90: "toothbrush",
}  # fmt: skip

COCO_80 = tuple(_COCO.values())
"""Names of COCO's 80 thing classes, in the order of their category ids."""

COCO_80_IDS = tuple(_COCO)
"""Category id of each entry of :data:`COCO_80`."""

COCO_91 = tuple(_COCO.get(i, BACKGROUND if i == 0 else "") for i in range(91))
"""Names by category id; 0 is the background and ten ids are unused (torchvision)."""

PASCAL_20 = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
"""Names of Pascal VOC's 20 classes, without the background."""

COCO_KEYPOINTS = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder",
    "left elbow", "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee",
    "right knee", "left ankle", "right ankle",
)  # fmt: skip
"""Names of COCO's 17 key points of a person."""

COCO_SKELETON = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8),
    (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip
"""Pairs of :data:`COCO_KEYPOINTS` that a limb joins."""

MPII_KEYPOINTS = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis",
    "thorax", "upper_neck", "head_top", "right_wrist", "right_elbow", "right_shoulder",
    "left_shoulder", "left_elbow", "left_wrist",
)  # fmt: skip
"""Names of the 16 joints of the MPII human pose data set."""

MPII_FLIP_ORDER = (5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10)
"""The joint that each of :data:`MPII_KEYPOINTS` becomes in a mirror."""

MPII_SKELETON = (
    (0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9),
    (7, 12), (12, 11), (11, 10), (7, 13), (13, 14), (14, 15),
)  # fmt: skip
"""Pairs of :data:`MPII_KEYPOINTS` that a limb joins."""

SHAPES = (BACKGROUND, "disc", "square", "triangle", "star", "ring", "cross")
"""Names of the built-in data set's classes; 0 is the background."""


def labels_and_categories(
    num_labels: int,
    known: Iterable[tuple[str, ...]],
    *,
    category_ids: tuple[int, ...] = (),
    background_first: bool = False,
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the name and the COCO category id of every label number.

    Args:
        num_labels: how many label numbers there are.
        known: lists of names; the first with as many entries is taken, else class_1, class_2 ...
        category_ids: of the label numbers; those of COCO, or counted from 1, if empty.
        background_first: label number 0 is the background; categories then count from it.
    """
    first = 0 if background_first else 1
    numbered = tuple(f"class_{i + first}" for i in range(num_labels))
    if background_first:
        numbered = (BACKGROUND, *numbered[1:])
    names = next((names for names in known if len(names) == num_labels), numbered)
    if category_ids:
        return names, category_ids
    if names == COCO_80:
        return names, COCO_80_IDS
    return names, tuple(range(first, first + num_labels))
