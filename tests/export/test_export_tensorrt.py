"""TensorRT-RTX compiles the bundles ahead of time, without a GPU."""

from collections import defaultdict

import pytest

import edgeseg
from edgeseg_runtime.tensorrt.engines import build_bundle

TARGETS = ["sm75", "sm86", "sm89", "sm120"]

pytest.importorskip("tensorrt_rtx")


def targets_of(engines):
    """Return for each model file the targets that it was compiled for."""
    found = defaultdict(list)
    for engine in engines:
        found[engine.key.onnx_sha256] += engine.key.targets
    return [sorted(targets) for targets in found.values()]


def test_each_graph_of_the_tiny_model_compiles_for_every_target(tiny_bundle, tmp_path):
    engines = build_bundle(tiny_bundle, flavour="tensorrt_rtx", targets=TARGETS, out=tmp_path)
    assert targets_of(engines) == [sorted(TARGETS)] * 2
    assert all(engine.path.stat().st_size == engine.size_bytes > 10_000 for engine in engines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "image_size", "targets"),
    [
        ("maskrcnn_resnet50_fpn", (800, 1344), ["sm86"]),
        *(
            pytest.param(name, (320, 480), TARGETS, marks=pytest.mark.exhaustive)
            for name in (
                "maskrcnn_resnet50_fpn_3x",
                "maskrcnn_resnet50_fpn_v2",
                "keypointrcnn_resnet50_fpn",
                "panoptic_fpn_resnet50_3x",
            )
        ),
    ],
)
def test_the_reference_models_compile(tmp_path, name, image_size, targets):
    model = edgeseg.create_model(name, image_size=image_size)
    bundle = edgeseg.export_bundle(model, tmp_path / name, num_images=1, variants=False)
    del model
    engines = build_bundle(bundle, flavour="tensorrt_rtx", targets=targets, out=tmp_path)
    assert targets_of(engines) == [sorted(targets)] * 2


def test_an_export_for_tensorrt_rtx_brings_its_engine(tiny_model, tmp_path):
    bundle = edgeseg.export_bundle(
        tiny_model,
        tmp_path / "bundle",
        backends=("onnxruntime", "tensorrt_rtx"),
        num_images=1,
    )
    engines = list((bundle / "engines").glob("*.engine"))
    assert len(engines) == 2
    assert all(engine.stat().st_size > 10_000 for engine in engines)
