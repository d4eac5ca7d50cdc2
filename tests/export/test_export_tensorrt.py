"""TensorRT-RTX compiles the bundles ahead of time, without a GPU."""

from collections import defaultdict

import pytest

import edgeseg
from edgeseg.models import list_models
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.tensorrt.engines import build_bundle

TARGETS = ["sm75", "sm86", "sm89", "sm120"]
TINY = [name for name in list_models() if name.endswith("_tiny")]

pytest.importorskip("tensorrt_rtx")


def targets_of(engines):
    """Return for each model file the targets that it was compiled for."""
    found = defaultdict(list)
    for engine in engines:
        found[engine.key.onnx_sha256] += engine.key.targets
    return [sorted(targets) for targets in found.values()]


@pytest.mark.parametrize("name", TINY)
def test_each_graph_of_a_tiny_model_compiles_for_every_target(bundle_of, name, tmp_path):
    bundle = bundle_of(name)
    engines = build_bundle(bundle, flavour="tensorrt_rtx", targets=TARGETS, out=tmp_path)
    assert targets_of(engines) == [sorted(TARGETS)] * len(Manifest.load(bundle).graphs)
    assert all(engine.path.stat().st_size == engine.size_bytes > 10_000 for engine in engines)


@pytest.mark.slow
@pytest.mark.exhaustive  # CenterNet's deformable trunk is compiled at its size in every run
@pytest.mark.parametrize(
    ("name", "image_size", "targets"),
    [
        ("maskrcnn_resnet50_fpn", (800, 1344), ["sm86"]),
        *(
            (name, (320, 480), TARGETS)
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


def test_an_export_for_tensorrt_rtx_brings_its_engine(tmp_path):
    bundle = edgeseg.export_bundle(
        edgeseg.create_model("landmarks_regression_tiny", pfld_blocks=(1, 1)),
        tmp_path / "bundle",
        backends=("onnxruntime", "tensorrt_rtx"),
        num_images=1,
    )
    (engine,) = (bundle / "engines").glob("*.engine")
    assert engine.stat().st_size > 10_000
