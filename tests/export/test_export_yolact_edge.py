"""YolactEdge bundles: the original's instances in every frame, in ONNX Runtime and compiled."""

import pytest
from golden import match_detections
from yolact_cases import load_clip, load_instances

import edgeseg
import edgeseg_runtime
from edgeseg_runtime.tensorrt.engines import build_bundle


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "name"),
    [("dev", "yolact_edge_vid_resnet50"), ("dev_image", "yolact_edge_mobilenetv2")],
)
def test_a_bundle_gives_the_original_s_results(tmp_path, case, name):
    """In every frame; and TensorRT-RTX compiles its graphs."""
    if case == "dev":
        pictures, cases = load_clip(case)
    else:
        cases = [load_instances(case, "yolact_edge")]
        pictures = [cases[0].image]
    model = edgeseg.create_model(name, weights=cases[0].weights())
    bundle = edgeseg.export_bundle(model, tmp_path / case, images=pictures)
    del model
    with (
        edgeseg_runtime.load(bundle, backend="onnxruntime", threads=1) as predictor,
        predictor.session() as session,
    ):
        for picture, golden in zip(pictures, cases, strict=True):
            result = session(picture)
            rows = match_detections(result, golden, box_px=1, score=1e-4)
            assert (result.boxes[rows] != golden.arrays["boxes"]).sum() <= 2
            assert (result.masks[rows] != golden.masks()).sum() <= 50
    pytest.importorskip("tensorrt_rtx")
    engines = build_bundle(bundle, flavour="tensorrt_rtx", targets=["sm86"], out=tmp_path / "rtx")
    assert len(engines) == len(edgeseg_runtime.Manifest.load(bundle).graphs)


def test_one_picture_is_no_video(tmp_path):
    pictures, cases = load_clip("dev")
    model = edgeseg.create_model("yolact_edge_vid_resnet50", weights=cases[0].weights())
    with pytest.raises(
        ValueError, match=r"1 picture found .* expected at least 2, .* step runs behind"
    ):
        edgeseg.export_bundle(model, tmp_path / "bundle", images=pictures[:1])
