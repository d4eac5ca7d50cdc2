"""Runs a bundle with the runtime alone, saves the results, and compares them with another run's.

    python run_bundle.py BUNDLE RESULTS.npz [--expected OTHER.npz]

Needs edgeseg_runtime and onnxruntime and nothing else of this repository.
"""

import argparse
import sys

import cv2
import numpy as np

import edgeseg_runtime

MAX_BOX_DIFFERENCE = 0.05  # source pixels
MAX_SCORE_DIFFERENCE = 1e-3


def picture():
    """Return a picture with a disc and a square in it."""
    canvas = np.full((240, 300, 3), (90, 110, 60), np.uint8)
    cv2.circle(canvas, (90, 100), 45, (40, 60, 220), cv2.FILLED)
    cv2.rectangle(canvas, (170, 90), (260, 180), (210, 190, 60), cv2.FILLED)
    return canvas


def run(bundle):
    """Return boxes, scores, labels and the area of each mask."""
    with edgeseg_runtime.load(bundle, backend="onnxruntime", threads=1) as predictor:
        result = predictor(picture())
    return {
        "boxes": result.boxes,
        "scores": result.scores,
        "labels": result.labels,
        "areas": result.masks.sum(axis=(1, 2)),
    }


def differences(found, expected):
    """Return what is not the same in both runs, as lines of text."""
    count = len(found["scores"])
    if not np.array_equal(found["labels"], expected["labels"]):
        return [f"labels {found['labels']}, expected {expected['labels']}"]
    if not count:
        return ["no detection at all"]
    lines = []
    for name, bound in (("boxes", MAX_BOX_DIFFERENCE), ("scores", MAX_SCORE_DIFFERENCE)):
        largest = np.abs(found[name] - expected[name]).max()
        if not largest <= bound:
            lines.append(f"{name} differ by {largest}, expected at most {bound}")
    if not np.allclose(found["areas"], expected["areas"], rtol=0.01, atol=4):
        lines.append(f"mask areas {found['areas']}, expected {expected['areas']}")
    return lines


def main():
    """Run, save, compare; the exit code is 1 if the results differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("results")
    parser.add_argument("--expected")
    arguments = parser.parse_args()
    found = run(arguments.bundle)
    np.savez(arguments.results, **found)
    if arguments.expected is None:
        return 0
    lines = differences(found, np.load(arguments.expected))
    print("\n".join(lines) or f"the same {len(found['scores'])} detections")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
