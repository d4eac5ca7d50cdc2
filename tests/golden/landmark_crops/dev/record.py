"""Records what the originals of landmark models cut out of a picture, and how they map points back.

    python record.py HRNET PFLD PILUTIL

HRNET and PFLD are checkouts of HRNet/HRNet-Facial-Landmark-Detection and polarisZhao/PFLD-pytorch, PILUTIL is
scipy/misc/pilutil.py of SciPy 1.1.0. Their files are run as they are; nothing of edgeseg takes part.
"""

import ast
import hashlib
import importlib.util
import json
import math
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import torch

HERE = Path(__file__).parent
SEED, HEIGHT, WIDTH = 20, 600, 800
STEP = 16  # of the rows and columns of a crop that are stored; its digest covers all
MARGINS = {"hrnet": 1.25, "pfld": 1.2, "pfld_camera": 1.1}
BOXES = {
    "small": (300.0, 200.0, 390.0, 320.0),
    "wide": (250.3, 300.0, 540.6, 380.5),
    "high": (402.0, 111.0, 470.0, 402.0),
    "left of the picture": (-60.0, -45.0, 140.0, 160.0),
    "right of the picture": (640.5, 470.25, 860.0, 655.0),
    "as large as the network": (200.0, 150.0, 404.8, 354.8),
    "above the network": (260.0, 140.0, 540.0, 430.0),
    "below twice": (150.0, 80.0, 559.0, 470.0),
    "twice": (190.0, 95.0, 599.6, 504.6),
    "above twice": (120.0, 60.0, 640.0, 590.0),
    "wide and off the border": (-150.0, 200.0, 700.0, 420.0),
    "far beyond": (-900.0, -700.0, 1500.0, 1600.0),
    "whole pixels": (100.0, 100.0, 400.0, 400.0),
}


def module_at(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_hrnet(folder, pilutil):
    """Import transforms.py with the SciPy that it was written for, whose NumPy and Pillow had these names."""
    import scipy

    np.math = math
    PIL.Image.isImageType = lambda image: isinstance(image, PIL.Image.Image)
    np.deprecate = lambda **_: lambda function: function
    with tempfile.TemporaryDirectory() as copies:
        copy = Path(copies, "pilutil.py")
        copy.write_text(pilutil.read_text().replace(".tostring()", ".tobytes()"))
        sys.modules["scipy.misc"] = scipy.misc = module_at(copy, "scipy.misc")
    return module_at(folder / "lib/utils/transforms.py", "transforms")


def hrnet(transforms, picture_rgb, box):
    """What lib/datasets/wflw.py and lib/core/evaluation.py do."""
    x1, y1, x2, y2 = box
    center = torch.Tensor([(x1 + x2) / 2, (y1 + y2) / 2])
    scale = max(x2 - x1, y2 - y1) / 200
    scale *= MARGINS["hrnet"]
    crop = transforms.crop(picture_rgb.astype(np.float32), center, scale, [256, 256], rot=0)
    points = torch.tensor([[1.0, 1.0], [33.25, 20.5], [64.0, 64.0]])
    found = transforms.transform_preds(points.clone(), center, scale, [64, 64])
    return {"crop": crop, "map_points": points.numpy(), "picture_points": found.numpy()}


def pfld(preparation, picture_bgr, box, folder):
    """Run `ImageDate.load_data` on a face whose points span the box, in whole pixels."""
    x1, y1, x2, y2 = (int(corner) for corner in box)
    points = np.tile([(x1 + x2) // 2, (y1 + y2) // 2], (98, 1))
    points[:2] = (x1, y1), (x2, y2)
    cv2.imwrite(str(folder / "picture.png"), picture_bgr)
    line = [*map(str, points.ravel()), *["0"] * 10, "picture.png"]
    data = preparation.ImageDate(" ".join(line), str(folder))
    data.load_data(is_train=False, repeat=1)
    shares = data.landmarks[0][:2].astype(np.float64)
    side = ((x2 - x1) / (shares[1, 0] - shares[0, 0])).round()
    corner = (points[0] - shares[0] * side).round()
    return {"crop": data.imgs[0], "square": np.array([*corner, side], np.int64)}


def pfld_camera(script, box):
    """Run the lines of camera.py that make a square of a detector's box."""
    tree = ast.parse(script.read_text())
    (loop,) = (n for n in ast.walk(tree) if isinstance(n, ast.For) and ast.unparse(n.target) == "box")
    lines = next(
        index for index, line in enumerate(loop.body) if ast.unparse(line) == "x1 = max(0, x1)"
    )
    scope = {"np": np, "box": np.array([*box, 0.9])}
    exec(compile(ast.Module(loop.body[:lines], []), str(script), "exec"), scope)  # noqa: S102
    return {"square": np.array([scope["x1"], scope["y1"], scope["size"]], np.int64)}


def main(hrnet_folder, pfld_folder, pilutil):
    fill = module_at(HERE.parent.parent / "fill.py", "fill")
    picture_rgb = fill.sample_image(SEED, HEIGHT, WIDTH)
    transforms = load_hrnet(Path(hrnet_folder), Path(pilutil))
    sys.path.insert(0, pfld_folder)
    preparation = module_at(Path(pfld_folder, "data/SetPreparation.py"), "preparation")
    arrays, digests = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, box in BOXES.items():
            found = {
                "hrnet": hrnet(transforms, picture_rgb, box),
                "pfld": pfld(preparation, picture_rgb[..., ::-1], box, Path(folder)),
                "pfld_camera": pfld_camera(Path(pfld_folder, "camera.py"), box),
            }
            for original, values in found.items():
                for key, value in values.items():
                    label = f"{original}/{name}/{key}"
                    if key == "crop":
                        digests[label] = hashlib.sha256(np.ascontiguousarray(value)).hexdigest()
                        value = value[::STEP, ::STEP]
                    arrays[label] = value
    np.savez_compressed(HERE / "outputs.npz", **arrays)
    case = {
        "system": "landmark_crops",
        "sources": {
            "hrnet": "HRNet/HRNet-Facial-Landmark-Detection f776dbe8eb6fec831774a47209dae5547ae2cda5, "
            "lib/utils/transforms.py (crop, transform_preds); scipy.misc of SciPy 1.1.0",
            "pfld": "polarisZhao/PFLD-pytorch b00750c37deaf5d133933d080d4b7a6421826812, data/SetPreparation.py",
            "pfld_camera": "the same, camera.py, the lines before the square is cut at the picture's border",
        },
        "image": {"seed": SEED, "height": HEIGHT, "width": WIDTH},
        "margins": MARGINS,
        "boxes_xyxy": BOXES,
        "crop_step": STEP,
        "crop_sha256": digests,
        "outputs": {
            "crop": "every 16th row and column of the crop, H,W,C uint8: hrnet RGB 256x256, pfld BGR 112x112",
            "square": "left, top, side in source pixels",
            "map_points": "x, y in a heat map of 64x64, counted from 1",
            "picture_points": "the same in the picture, cut to whole pixels and counted from 1",
        },
    }
    (HERE / "case.json").write_text(json.dumps(case, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
