"""Records what detectron2's DensePose evaluation says of small made-up cases.

python record.py PATH_OF/densepose_coco_evaluation.py

The official module is run as it is, with three exceptions: what it imports of detectron2 is replaced by
empty stand-ins, `np.float` (gone from NumPy) is float, and the surface is a made-up one of 400 vertices,
because the official files are large and not ours to pass on.
"""

import base64
import contextlib
import importlib.util
import io
import json
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import torch
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

NUM_CORNERS = 27554  # fixed in the official module
NUM_VERTICES = 400


class PairwiseDistances:
    """Stands in for the official matrix: a distance for every pair, by its number."""

    def __getitem__(self, number):
        return [(int(number) * 2654435761 % 1000) / 2500.0]


def surface(rng):
    return {
        "parts": (np.arange(NUM_VERTICES) % 24 + 1).tolist(),
        "u": rng.uniform(0, 1, NUM_VERTICES).round(4).tolist(),
        "v": rng.uniform(0, 1, NUM_VERTICES).round(4).tolist(),
        "corners": rng.integers(0, NUM_CORNERS, NUM_VERTICES).tolist(),
    }


def box_of(rng):
    width, height = rng.uniform(20, 150, 2)
    left, top = rng.uniform(0, 60, 2)
    return [round(float(value), 2) for value in (left, top, width, height)]


def iuv_at(rng, box, surface, person=None):
    """A surface over a box; where a person is labelled, mostly what is labelled."""
    height, width = max(int(box[3]), 1), max(int(box[2]), 1)
    coarse = rng.integers(0, [[[25]], [[256]], [[256]]], (3, 4, 4)).astype(np.uint8)
    iuv = np.stack(
        [cv2.resize(x, (width, height), interpolation=cv2.INTER_NEAREST) for x in coarse]
    )
    if person is not None and "dp_x" in person:
        for index in range(len(person["dp_x"])):
            x = int(person["dp_x"][index] * person["bbox"][2] / 255 + person["bbox"][0] - box[0])
            y = int(person["dp_y"][index] * person["bbox"][3] / 255 + person["bbox"][1] - box[1])
            if 0 <= x < width and 0 <= y < height and rng.uniform() < 0.85:
                noise = rng.normal(0, 6, 2)
                iuv[0, y, x] = person["dp_I"][index]
                uv = np.array([person["dp_U"][index], person["dp_V"][index]]) * 255 + noise
                iuv[1:, y, x] = np.clip(uv, 0, 255)
    return iuv


def case(seed):
    rng = np.random.default_rng(seed)
    model = surface(rng)
    images = [{"id": i, "height": 200, "width": 220} for i in range(1, 7)]
    annotations, results = [], []
    for image in images:
        num_persons = [2, 1, 0, 3, 1, 2][image["id"] - 1]
        for _ in range(num_persons):
            box = box_of(rng)
            person = {
                "id": len(annotations) + 1, "image_id": image["id"], "category_id": 1,
                "iscrowd": 0, "bbox": box, "area": box[2] * box[3] * 0.6,
            }  # fmt: skip
            kind = rng.uniform()
            if kind < 0.8:
                vertices = rng.integers(0, NUM_VERTICES, 12)
                person |= {
                    "dp_x": rng.uniform(0, 255, 12).round(2).tolist(),
                    "dp_y": rng.uniform(0, 255, 12).round(2).tolist(),
                    "dp_I": [model["parts"][k] for k in vertices],
                    "dp_U": [model["u"][k] for k in vertices],
                    "dp_V": [model["v"][k] for k in vertices],
                }
                masks = []
                for _ in range(14):
                    low = rng.integers(0, 150, 2)
                    mask = np.zeros((256, 256), np.uint8, order="F")
                    mask[low[0] : low[0] + 110, low[1] : low[1] + 90] = 1
                    rle = mask_utils.encode(mask)
                    masks.append({"size": rle["size"], "counts": rle["counts"].decode()})
                masks[3] = []
                if kind < 0.6:
                    person["dp_masks"] = masks
            x, y, w, h = box
            person["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            annotations.append(person)
    for person in annotations:
        for shift in (2, 15):
            moved = np.array(person["bbox"]) + rng.normal(0, shift, 4) * [1, 1, 0.5, 0.5]
            box = [float(v) for v in np.maximum(moved, [0, 0, 1, 1]).round(2)]
            results.append((person["image_id"], box, iuv_at(rng, box, model, person)))
    for image in images:
        for _ in range(2):
            box = box_of(rng)
            results.append((image["id"], box, iuv_at(rng, box, model)))
    records = [
        {
            "image_id": image_id, "category_id": 1, "bbox": box,
            "score": round(float(rng.uniform(0.1, 1)), 4), "iuv": iuv,
        }
        for image_id, box, iuv in results
    ]  # fmt: skip
    truth = {
        "images": images, "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }  # fmt: skip
    return model, truth, records


def official(path):
    names = {
        "detectron2.utils.file_io": ["PathManager"],
        "densepose.converters.chart_output_to_chart_result": ["resample_uv_tensors_to_bbox"],
        "densepose.converters.segm_to_mask": [
            "resample_coarse_segm_tensor_to_bbox", "resample_fine_and_coarse_segm_tensors_to_bbox",
        ],
        "densepose.modeling.cse.utils": ["squared_euclidean_distance_matrix"],
        "densepose.structures.mesh": ["create_mesh"],
        "densepose.structures": ["DensePoseDataRelative"],
    }  # fmt: skip
    for name, values in names.items():
        for end in range(name.count(".") + 1):
            part = ".".join(name.split(".")[: end + 1])
            sys.modules.setdefault(part, types.ModuleType(part))
        for value in values:
            setattr(sys.modules[name], value, types.SimpleNamespace(S_KEY="dp_masks"))
    np.float = float
    spec = importlib.util.spec_from_file_location("official", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def evaluate(module, model, truth, records, mode):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(truth))
        coco.createIndex()
        entries = []
        for record in records:
            iuv = record["iuv"]
            quantised = types.SimpleNamespace(labels_uv_uint8=torch.from_numpy(iuv))
            entries.append({**{k: v for k, v in record.items() if k != "iuv"}, "densepose": quantised})
        found = COCO()
        found.dataset = {**coco.dataset, "annotations": [
            {**e, "id": i + 1, "iscrowd": 0, "area": e["bbox"][2] * e["bbox"][3]}
            for i, e in enumerate(entries)
        ]}  # what loadRes adds  # fmt: skip
        found.createIndex()
    evaluator = module.DensePoseCocoEval(coco, found, "densepose", dpEvalMode=mode)

    def load():
        parts = np.array(model["parts"])
        uv = np.array([model["u"], model["v"]])
        inds = np.arange(NUM_VERTICES) + 1
        evaluator.PDIST_transform = np.array(model["corners"]) + 1
        evaluator.Part_UVs = [uv[:, parts == i + 1] for i in range(24)]
        evaluator.Part_ClosestVertInds = [inds[parts == i + 1] for i in range(24)]
        evaluator.Pdist_matrix = PairwiseDistances()
        evaluator.Part_ids = parts
        evaluator.Mean_Distances = np.array(
            [0, 0.351, 0.107, 0.126, 0.237, 0.173, 0.142, 0.128, 0.150]
        )
        evaluator.CoarseParts = np.array(
            [0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, 8, 8]
        )

    evaluator._loadGEval = load
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    names = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
    stats = dict(zip(names, map(float, evaluator.stats), strict=True))
    similarity = [
        np.asarray(evaluator.ious[image["id"], 1][0]).tolist()
        if len(evaluator.ious[image["id"], 1]) else []
        for image in truth["images"]
    ]  # fmt: skip
    return {"stats": stats, "similarity": similarity}


def main(path):
    module = official(path)
    cases = []
    for seed in (0, 1, 2):
        model, truth, records = case(seed)
        expected = {
            mode.value: evaluate(module, model, truth, records, mode)
            for mode in (module.DensePoseEvalMode.GPS, module.DensePoseEvalMode.GPSM)
        }
        for record in records:
            iuv = record.pop("iuv")
            png = cv2.imencode(".png", np.moveaxis(iuv, 0, -1)[..., ::-1].copy())[1].tobytes()
            record["densepose"] = {
                "shape_chw": list(iuv.shape),
                "labels_uv_str": base64.encodebytes(png).decode(),
            }
        cases.append({"model": model, "truth": truth, "records": records, "expected": expected})
    text = json.dumps({"source": "detectron2 at 02b5c4e295e990042a714712c21dc79b731e8833", "cases": cases})
    (Path(__file__).parent / "cases.json").write_text(text + "\n")
    for number, item in enumerate(cases):
        print(number, {mode: item["expected"][mode]["stats"]["AP"] for mode in ("gps", "gpsm")})


if __name__ == "__main__":
    main(sys.argv[1])
