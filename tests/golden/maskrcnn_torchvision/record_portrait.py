"""Records dev_portrait: what torchvision's own Mask R-CNN finds in a picture that is higher than wide.

    pip install torch==2.14.1 torchvision==0.29.1
    python tests/golden/maskrcnn_torchvision/record_portrait.py

Weights and picture are made by ../fill.py from the keys and shapes of dev/state.json; the model runs twice and must
give the same.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
import torchvision
from torchvision.models.detection import maskrcnn_resnet50_fpn

HERE = Path(__file__).resolve().parent
IMAGE = {"seed": 707, "height": 377, "width": 251}
MASK_THRESHOLD = 0.5


def main():
    spec = importlib.util.spec_from_file_location("fill", HERE.parent / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    case = json.loads((HERE / "dev" / "case.json").read_text("utf-8"))
    state = json.loads((HERE / "dev" / "state.json").read_text("utf-8"))
    config = case["config"]
    model = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=config["num_classes"],
        min_size=config["min_size"],
        max_size=config["max_size"],
    )
    for module in model.modules():  # as the loader does for the official weights
        if isinstance(module, torchvision.ops.FrozenBatchNorm2d):
            module.eps = 0.0
    weights = fill.fill_all(state, seed=case["seed"], gains=case["gains"])
    model.load_state_dict({key: torch.from_numpy(np.asarray(w)) for key, w in weights.items()})
    model.eval()
    picture = fill.sample_image(IMAGE["seed"], IMAGE["height"], IMAGE["width"])
    tensor = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float() / 255
    with torch.inference_mode():
        inputs, _ = model.transform([tensor])
        first, second = (model([tensor])[0] for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    masks = (first["masks"][:, 0] >= MASK_THRESHOLD).numpy()
    folder = HERE / "dev_portrait"
    folder.mkdir(exist_ok=True)
    np.savez_compressed(
        folder / "outputs.npz",
        resized_size=np.array([inputs.image_sizes[0]], np.int32),
        boxes=first["boxes"].numpy(),
        labels=first["labels"].numpy(),
        scores=first["scores"].numpy(),
        masks_bits=np.packbits(masks),
    )
    outputs = {
        "input": {"shape": list(inputs.tensors.shape), "meaning": "network input, not stored"},
        "resized_size": {"meaning": "height, width of the resized picture inside the input"},
        "boxes": {"meaning": "x1 y1 x2 y2 in source pixels"},
        "masks_bits": {"meaning": f"packed bits of N,H,W: probability at least {MASK_THRESHOLD}"},
    }
    case |= {
        "source": f"torchvision {torchvision.__version__} (torch {torch.__version__})",
        "image": IMAGE,
        "outputs": outputs,
    }
    text = json.dumps(case, indent=1) + "\n"
    (folder / "case.json").write_text(text, "utf-8")
    (folder / "state.json").write_text(json.dumps(state) + "\n", "utf-8")
    print(len(first["boxes"]), "detections", inputs.tensors.shape, inputs.image_sizes)


if __name__ == "__main__":
    main()
