"""Exports torchvision's Mask R-CNN to ONNX as its users do; runs in a venv of its own.

    python -m venv .venv-rival
    .venv-rival/bin/pip install torch==2.12.1 torchvision==0.27.1 onnx onnxscript
    .venv-rival/bin/python benchmarks/rivals/export_torchvision.py --weights W.pt --size 800x1333 --out MODEL.onnx

`maskrcnn.py` beside it writes the weights and calls it. Nothing of edgeseg is imported here. The graph takes
`image`, (3, height, width) float32 RGB in 0..1, and gives `boxes`, `labels`, `scores` and `masks`,
(N, 1, height, width) float32 probabilities: torchvision resizes, pads and pastes masks inside of it.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import torch

OUTPUTS = ("boxes", "labels", "scores", "masks")
OPSET = 18


def main() -> None:
    """Exports, and says how long it took."""
    arguments = parse_arguments()
    model = make_model(torch.load(arguments.weights, weights_only=True))
    height, width = (int(side) for side in arguments.size.split("x"))
    start = time.perf_counter()
    export(model, torch.rand(3, height, width), arguments.out, is_dynamo=arguments.dynamo)
    print(f"exported in {time.perf_counter() - start:.1f} s: {arguments.out}")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, help="state dict, torch.save")
    parser.add_argument("--size", required=True, help="height x width of the picture")
    parser.add_argument("--out", type=Path, required=True, help="ONNX file to write")
    parser.add_argument(
        "--dynamo", action="store_true", help="torch.export instead of the TorchScript exporter"
    )
    return parser.parse_args()


def make_model(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """What maskrcnn_resnet50_fpn(weights="DEFAULT") makes, with other weights and without a download."""
    from torchvision.models import detection  # type: ignore[import-not-found]  # noqa: TID251

    backbone = detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet50", weights=None)
    model: torch.nn.Module = detection.MaskRCNN(backbone, num_classes=91)
    detection._utils.overwrite_eps(model, 0.0)  # as for torchvision's weights of version 1
    model.load_state_dict(state)
    return model.eval()


def export(model: torch.nn.Module, image: torch.Tensor, path: Path, *, is_dynamo: bool) -> None:
    """Write the graph for pictures of the size of `image`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's many remarks on torchvision's code
        torch.onnx.export(
            model,
            ([image],),
            str(path),
            opset_version=OPSET,
            input_names=["image"],
            output_names=list(OUTPUTS),
            dynamo=is_dynamo,
        )


if __name__ == "__main__":
    main()
