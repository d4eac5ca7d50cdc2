"""An instance model whose outputs are given: no engine, no weights."""

from __future__ import annotations

import numpy as np

from edgeseg_runtime.bundle.manifest import Manifest, Preprocess, TensorSpec, one_graph
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.tasks import create_task


class FakeBackend:
    """Gives the same outputs for every picture and counts the calls."""

    def __init__(self, outputs):
        self.outputs = outputs
        self.inputs = []
        self.num_runs = 0
        self.num_closed = 0

    def run(self, inputs, graph="main", state=None, rows=None):
        self.num_runs += 1
        self.inputs.append(inputs)
        return {name: array.copy() for name, array in self.outputs.items()}

    def open_state(self):
        raise AssertionError("a model of one graph keeps nothing")

    def close(self):
        self.num_closed += 1


def instance_manifest(
    *,
    size=(48, 64),
    rows=3,
    cells=8,
    joints=0,
    takes_size=True,
    takes_fraction=False,
    preprocess=None,
    **postprocess,
):
    """Return the manifest of an instance model; `joints` > 0 gives key points instead of masks."""
    inputs = [_spec("image", "uint8", *size, 3)]
    if takes_size:
        inputs.append(_spec("image_size", "int32", 2))
    if takes_fraction:
        inputs.append(_spec("image_fraction", "uint8", *size, 3))
    outputs = [
        _spec("boxes", "float32", rows, 4),
        _spec("scores", "float32", rows),
        _spec("labels", "int32", rows),
    ]
    if joints:
        outputs.append(_spec("keypoint_heatmaps", "float32", rows, joints, 56, 56))
        postprocess = {"keypoints": "bicubic_argmax", **postprocess}
    else:
        cells = (cells, cells) if isinstance(cells, int) else cells
        outputs.append(_spec("masks", "float32", rows, *cells))
        postprocess = {"mask_paste": "expanded_box", **postprocess}
    preprocess = {"resize": "shortest_edge", "min_size": min(size), **(preprocess or {})}
    return Manifest(
        name="fake",
        task="instances",
        precision="fp32",
        graphs=one_graph(inputs=tuple(inputs), outputs=tuple(outputs)),
        preprocess=Preprocess(height=size[0], width=size[1], **preprocess),
        postprocess=postprocess,
        labels=("__background__", "cat", "", "dog"),
        category_ids=(0, 17, 0, 18),
    )


def instance_outputs(*, boxes, scores, labels, masks=None, heatmaps=None):
    """Return the outputs of one picture, from arrays without the batch axis."""
    rows = {
        "boxes": (boxes, np.float32),
        "scores": (scores, np.float32),
        "labels": (labels, np.int32),
        "masks": (masks, np.float32),
        "keypoint_heatmaps": (heatmaps, np.float32),
    }
    return {
        name: np.asarray(values, dtype)[None]
        for name, (values, dtype) in rows.items()
        if values is not None
    }


def task_manifest(
    task, outputs, *, size=(64, 64), preprocess=None, inputs=None, dtypes=None, **changes
):
    """Return the manifest of any task.

    `outputs` maps names to shapes without the batch axis; `dtypes` those that are not float32.
    """
    dtypes = {"labels": "int32", **(dtypes or {})}
    preprocess = {"resize": "square_crop", "rounding": "none", **(preprocess or {})}
    arguments = {
        "name": "fake",
        "task": task,
        "precision": "fp32",
        "graphs": one_graph(
            inputs or [_spec("image", "uint8", *size, 3)],
            [_spec(name, dtypes.get(name, "float32"), *shape) for name, shape in outputs.items()],
        ),
        "preprocess": Preprocess(height=size[0], width=size[1], **preprocess),
    }
    return Manifest(**{**arguments, **changes})


def fake_predictor(manifest, outputs):
    """Return a predictor that gives these outputs for every picture."""
    return Predictor(manifest, create_task(manifest), FakeBackend(outputs))


def _spec(name, dtype, *shape):
    return TensorSpec(name=name, dtype=dtype, shape=(-1, *shape))
