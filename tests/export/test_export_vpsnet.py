"""VPSNet bundles: the original's segments and identities in every frame, in ONNX Runtime and compiled."""

import numpy as np
import pytest
from vpsnet_cases import load_clip

import edgeseg
import edgeseg_runtime
from edgeseg_runtime.tasks.pixel_contest import nearest_source
from edgeseg_runtime.tensorrt.engines import build_bundle

NAME = "vpsnet_fusetrack_cityscapes"
NUM_STUFF, NUM_THINGS, VOID = 11, 8, 255
MAX_DIFFERENT = 10
"""Pixels of a frame where two channels are as good as equal."""


def classes_of(result):
    """Class of each pixel as the original counts, 255 for void."""
    labels = np.array([segment.label for segment in result.segments])
    classes = np.where(labels > NUM_THINGS, labels - 1 - NUM_THINGS, labels - 1 + NUM_STUFF)
    return np.append(VOID, classes)[result.ids]


def objects_of(result):
    """Identity of each pixel's thing + 1, 0 elsewhere."""
    objects = [segment.track_id + 1 if segment.is_thing else 0 for segment in result.segments]
    return np.append(0, objects)[result.ids]


@pytest.mark.slow
@pytest.mark.exhaustive  # the way through a bundle is shown with a quicker model, the numbers in torch
def test_a_bundle_gives_the_original_s_results(tmp_path):
    """Segments and identities of all frames; weights are in the bundle once; and TensorRT-RTX compiles both graphs."""
    pictures, cases = load_clip()
    size = tuple(cases[1].description["outputs"]["input"]["shape"][2:])
    model = edgeseg.create_model(
        NAME, weights=cases[0].weights(), image_size=size, original_ids=True
    )
    bundle = edgeseg.export_bundle(model, tmp_path / "bundle", images=pictures)
    del model
    with (
        edgeseg_runtime.load(bundle, backend="onnxruntime", threads=1) as predictor,
        predictor.session() as session,
    ):
        for picture, golden in zip(pictures, cases, strict=True):
            result = session(picture)
            _, geometry = predictor.task.preprocess(picture)
            maps = {
                name: nearest_source(golden.arrays[name].astype(np.int32), geometry)
                for name in ("pan_sem", "pan_ins", "pan_obj")
            }
            assert (classes_of(result) != maps["pan_sem"]).sum() <= MAX_DIFFERENT
            objects = np.where(maps["pan_ins"] > 0, maps["pan_obj"], 0)
            assert (objects_of(result) != objects).sum() <= MAX_DIFFERENT
            assert set(np.unique(objects_of(result))) == set(np.unique(objects))
    pytest.importorskip("tensorrt_rtx")
    engines = build_bundle(bundle, flavour="tensorrt_rtx", targets=["sm86"], out=tmp_path / "rtx")
    assert len(engines) == 2
