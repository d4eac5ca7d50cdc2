"""The golden cases of YOLACT under the names that instances have."""

from dataclasses import replace

from golden import load_case

NAMES = {
    "dev": "yolact_resnet50",
    "dev_plus": "yolact_plus_resnet50",
    "dev_darknet53": "yolact_darknet53",
}
"""Case -> model."""

SUPPRESSIONS = {"fast": "det", "fast_cross_class": "cc", "traditional": "trad"}
"""Option ``nms`` -> prefix of its arrays."""


def load_instances(case):
    """Return a case whose final boxes, scores, labels and masks have the names of other families."""
    golden = load_case("yolact", case)
    names = {
        "boxes": "final_box",
        "scores": "det_score",
        "labels": "det_class",
        "masks_bits": "final_mask_bits",
    }
    final = {name: golden.arrays[theirs] for name, theirs in names.items()}
    return replace(golden, arrays=golden.arrays | final)
