"""A panoptic model whose outputs are given: a dog in front of a cat, over sky and ground."""

import numpy as np

from edgeseg_runtime.bundle.manifest import Manifest, Preprocess, TensorSpec, one_graph

HEIGHT, WIDTH, ROWS, CELLS = 48, 64, 3, 8
LABELS = ("cat", "dog", "sky", "ground")
OPTIONS = {"mask_paste": "grid_sample", "drop_empty_boxes": True, "stuff_area": 100}


def panoptic_manifest(
    *, size=(HEIGHT, WIDTH), classes=3, resize="stretch", outputs=None, **changes
):
    """Return a manifest whose parts can be replaced; an output that is None is left out."""
    height, width = size
    specs = {
        "boxes": ("float32", (1, ROWS, 4)),
        "scores": ("float32", (1, ROWS)),
        "labels": ("int32", (1, ROWS)),
        "masks": ("float32", (1, ROWS, CELLS, CELLS)),
        "semantic_logits": ("float32", (1, classes, height // 4, width // 4)),
        **(outputs or {}),
    }
    arguments = {
        "name": "fake",
        "task": "panoptic",
        "precision": "fp32",
        "graphs": one_graph(
            [TensorSpec(name="image", dtype="uint8", shape=(1, height, width, 3))],
            [
                TensorSpec(name=name, dtype=spec[0], shape=spec[1])
                for name, spec in specs.items()
                if spec is not None
            ],
        ),
        "preprocess": Preprocess(height=height, width=width, resize=resize),
        "postprocess": OPTIONS,
        "labels": LABELS,
        "category_ids": (17, 18, 187, 191),
    }
    return Manifest(**{**arguments, **changes})


def panoptic_outputs(semantic=None, **changes):
    """Return a dog in front of a cat, both over sky and, from the middle on, ground."""
    logits = np.zeros((1, 3, HEIGHT // 4, WIDTH // 4), np.float32)
    logits[0, 1, : HEIGHT // 8] = logits[0, 2, HEIGHT // 8 :] = 5
    arrays = {
        "boxes": np.array([[[8, 8, 24, 24], [16, 8, 40, 24], [0, 0, 0, 0]]], np.float32),
        "scores": np.array([[0.9, 0.6, 0]], np.float32),
        "labels": np.array([[1, 0, 0]], np.int32),
        "masks": np.ones((1, ROWS, CELLS, CELLS), np.float32),
        "semantic_logits": logits if semantic is None else semantic,
    }
    return {**arrays, **changes}
