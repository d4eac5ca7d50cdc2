"""Class names and category ids of the data sets that official checkpoints were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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

_COCO_STUFF = {
    92: "banner", 93: "blanket", 95: "bridge", 100: "cardboard", 107: "counter",
    109: "curtain", 112: "door-stuff", 118: "floor-wood", 119: "flower", 122: "fruit",
    125: "gravel", 128: "house", 130: "light", 133: "mirror-stuff", 138: "net", 141: "pillow",
    144: "platform", 145: "playingfield", 147: "railroad", 148: "river", 149: "road",
    151: "roof", 154: "sand", 155: "sea", 156: "shelf", 159: "snow", 161: "stairs",
    166: "tent", 168: "towel", 171: "wall-brick", 175: "wall-stone", 176: "wall-tile",
    177: "wall-wood", 178: "water-other", 180: "window-blind", 181: "window-other",
    184: "tree-merged", 185: "fence-merged", 186: "ceiling-merged", 187: "sky-other-merged",
    188: "cabinet-merged", 189: "table-merged", 190: "floor-other-merged",
    191: "pavement-merged", 192: "mountain-merged", 193: "grass-merged", 194: "dirt-merged",
    195: "paper-merged", 196: "food-other-merged", 197: "building-other-merged",
    198: "rock-merged", 199: "wall-other-merged", 200: "rug-merged",
}  # fmt: skip

COCO_STUFF = tuple(_COCO_STUFF.values())
"""Names of the 53 stuff classes of COCO's panoptic task, in the order of their category ids."""

COCO_STUFF_IDS = tuple(_COCO_STUFF)
"""Category id of each entry of :data:`COCO_STUFF`."""

_CITYSCAPES_STUFF = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole",
    19: "traffic light", 20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky",
}  # fmt: skip
_CITYSCAPES_THINGS = {
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle",
    33: "bicycle",
}  # fmt: skip

CITYSCAPES_THINGS = tuple(_CITYSCAPES_THINGS.values())
"""Names of Cityscapes' 8 thing classes, in the order of their train ids, 11 to 18."""

CITYSCAPES_THING_IDS = tuple(_CITYSCAPES_THINGS)
"""Label id of each entry of :data:`CITYSCAPES_THINGS`, which its panoptic files have as category."""

CITYSCAPES_STUFF = tuple(_CITYSCAPES_STUFF.values())
"""Names of Cityscapes' 11 stuff classes, in the order of their train ids, 0 to 10."""

CITYSCAPES_STUFF_IDS = tuple(_CITYSCAPES_STUFF)
"""Label id of each entry of :data:`CITYSCAPES_STUFF`."""

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

YOUTUBE_VIS_2019 = (
    "person", "giant_panda", "lizard", "parrot", "skateboard", "sedan", "ape", "dog", "snake", "monkey",
    "hand", "rabbit", "duck", "cat", "cow", "fish", "train", "horse", "turtle", "bear", "motorbike",
    "giraffe", "leopard", "fox", "deer", "owl", "surfboard", "airplane", "truck", "zebra", "tiger",
    "elephant", "snowboard", "boat", "shark", "mouse", "frog", "eagle", "earless_seal", "tennis_racket",
)  # fmt: skip
"""Names of the 40 classes of YouTube-VIS 2019; its category ids are 1 to 40."""

SHAPES = (BACKGROUND, "disc", "square", "triangle", "star", "ring", "cross")
"""Names of the built-in data set's classes; 0 is the background."""

LANDSCAPE_STUFF = ("sky", "ground", "water")
"""Names of the built-in data set's stuff, whose categories follow those of :data:`SHAPES`."""


PLACEHOLDER = "class_"
"""What the name of a class begins with that nobody has named."""


@dataclass(frozen=True, kw_only=True)
class ClassRules:
    """How a family counts its classes, as its original does.

    Attributes:
        counts_background: ``num_classes`` counts the background.
        names_background: ``labels`` and ``category_ids`` begin with the background's.
        num_classes: of a family that has always as many; None if that is an option.
    """

    counts_background: bool = False
    names_background: bool = False
    num_classes: int | None = None


def class_settings(
    preset: Mapping[str, Any], config: Mapping[str, Any], rules: ClassRules
) -> dict[str, Any]:
    """Return ``num_classes``, ``labels`` and ``category_ids`` of a configuration; each follows from the others.

    The preset's names are those of the official checkpoint. Where the number of classes is another,
    and no names are given, they are class_1, class_2 ...

    Args:
        preset: the same fields of the official checkpoint.
        config: those of them that the caller gives. Labels may leave out the background.
        rules: of the family.

    Raises:
        ValueError: they contradict one another.
    """
    given = config.get("labels") or ()
    if isinstance(given, str):
        raise ValueError(
            f"labels {given!r} found, expected a tuple of names, such as ('cat', 'dog')"
        )
    names = _without_background(tuple(given))
    ids = tuple(config.get("category_ids") or ())
    background = int(rules.counts_background)
    if names and ids and (names_by_id := _by_id(names, ids, preset, config, rules)):
        names, ids = names_by_id, ()
    count = rules.num_classes or config.get("num_classes")
    if count is None:
        count = len(names) + background if names else preset["num_classes"]
    expected = count - background
    if names and len(names) != expected:
        counted = ", which counts the background" if background else ""
        raise ValueError(
            f"labels with {len(names)} entries found, expected {expected}: num_classes is "
            f"{count}{counted}"
        )
    if not names and count == preset["num_classes"]:
        names = _without_background(preset.get("labels", ()))
        ids = ids or preset.get("category_ids", ())
    names = names or tuple(f"{PLACEHOLDER}{number + 1}" for number in range(expected))
    if rules.names_background:
        names = (BACKGROUND, *names)
        ids = (0, *ids) if len(ids) == len(names) - 1 else ids
    first = 0 if rules.names_background else 1
    ids = ids or tuple(range(first, first + len(names)))
    if len(ids) != len(names):
        raise ValueError(
            f"category_ids with {len(ids)} entries found, expected one for each class: {len(names)}"
        )
    return {"num_classes": count, "labels": names, "category_ids": ids}


def is_placeholder(label: str) -> bool:
    """Tell whether a class has no name of its own."""
    return label.removeprefix(PLACEHOLDER).isdecimal() and label.startswith(PLACEHOLDER)


def _without_background(names: tuple[str, ...]) -> tuple[str, ...]:
    return names[1:] if names and names[0].strip("_").lower() == "background" else names


def _by_id(
    names: tuple[str, ...],
    ids: tuple[int, ...],
    preset: Mapping[str, Any],
    config: Mapping[str, Any],
    rules: ClassRules,
) -> tuple[str, ...]:
    """Return a name for each category id up to the highest, where that is how a model numbers its classes.

    torchvision's models do: 91 are 80 classes, the background, and ten numbers that are not used.
    """
    count = config.get("num_classes", preset["num_classes"])
    if not rules.names_background or len(names) != len(ids) or min(ids) < 1:
        return ()
    if count != max(ids) + 1 or count == len(names) + 1:
        return ()
    name_of = dict(zip(ids, names, strict=True))
    return tuple(name_of.get(number, "") for number in range(1, count))
