"""Trains retinaface_tiny, with all its branches, on the faces of the shapes data.

    python benchmarks/training/retinaface.py --out runs/retinaface_tiny

`loop.py` says what is written and how a run is resumed.

Shape suffixes: B pictures, G faces of a picture (padded), N anchors, P anchors that hold a face.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from edgeseg.models.layers.boxes import encode_boxes
from edgeseg.models.retinaface.model import RetinaFace, encode_points
from edgeseg_bench.datasets import Dataset, open_dataset
from edgeseg_bench.datasets.faces import MEAN_SHAPE, NUM_FACES, NUM_VERTICES
from edgeseg_runtime.bundle.manifest import Manifest, Preprocess
from edgeseg_runtime.picture.geometry import fit_image, geometry_of, scale_points_to_network
from loop import Arrays, Defaults, train
from rcnn_losses import box_iou

MAX_FACES = NUM_FACES[1]
NUM_PICTURES = 3200  # drawn once, in the first round; then mirrored, then as they were ...
MIRRORED_LANDMARKS = (1, 0, 2, 4, 3)
MIRRORED_VERTICES = (
    np.abs(
        MEAN_SHAPE[:, None] * (-1, 1, 1) - MEAN_SHAPE  # the vertex on the other side
    )
    .sum(axis=-1)
    .argmin(axis=1)
)
# As the original (layers/modules/multibox_loss.py).
MATCH_IOU = 0.35
MIN_BEST_IOU = 0.2  # a face whose best anchor overlaps less is not learned
NEGATIVES_PER_POSITIVE = 7
LOSS_WEIGHTS = {"class": 1.0, "box": 1.0, "landmarks": 0.5, "gender": 4.0, "mesh": 20.0}

Floats = npt.NDArray[np.float32]


def make_sample(manifest: Manifest, number: int) -> Arrays:
    """Return a picture of the training split and its faces in the network's frame."""
    round_number, index = divmod(number, NUM_PICTURES)
    faces, width = _draw(manifest.preprocess, index)
    return _mirrored(faces, width) if round_number % 2 else faces


@functools.lru_cache(NUM_PICTURES)
def _draw(preprocess: Preprocess, index: int) -> tuple[Arrays, int]:
    """Return a picture with its faces, and the width of the picture inside the network's input."""
    sample = _training_split()[index]
    geometry = geometry_of((sample.height, sample.width), preprocess)

    def in_network(points: npt.ArrayLike) -> Floats:
        return scale_points_to_network(np.asarray(points, np.float32), geometry)

    boxes = np.zeros((MAX_FACES, 4), np.float32)
    landmarks = np.zeros((MAX_FACES, len(MIRRORED_LANDMARKS), 2), np.float32)
    gender = np.zeros(MAX_FACES, np.float32)
    mesh = np.zeros((MAX_FACES, NUM_VERTICES, 3), np.float32)
    for row, face in enumerate(sample.annotations):
        x, y, width, height = face["bbox"]
        boxes[row] = in_network([[x, y], [x + width, y + height]]).reshape(4)
        landmarks[row] = in_network(face["landmarks"])
        gender[row] = face["gender"]
        vertices = np.asarray(face["mesh"], np.float32)
        mesh[row, :, :2] = in_network(vertices[:, :2])
        mesh[row, :, 2] = vertices[:, 2] * geometry.resized[1] / geometry.source[1]
    arrays = {
        "image": fit_image(sample.image, geometry, preprocess)[0],
        "boxes": boxes,
        "landmarks": landmarks,
        "gender": gender,
        "mesh": mesh,
    }
    return arrays, geometry.resized[1]


def _mirrored(faces: Arrays, width: int) -> Arrays:
    """Return the picture and its faces mirrored left-right; padding faces stay without area."""
    image = faces["image"].copy()
    image[:, :width] = image[:, width - 1 :: -1]
    boxes = faces["boxes"].copy()
    boxes[:, [0, 2]] = np.where(boxes[:, 2:3] > 0, width - boxes[:, [2, 0]], 0)
    landmarks = faces["landmarks"][:, MIRRORED_LANDMARKS]
    mesh = faces["mesh"][:, MIRRORED_VERTICES]
    for points in (landmarks, mesh):
        points[..., 0] = width - points[..., 0]
    return faces | {"image": image, "boxes": boxes, "landmarks": landmarks, "mesh": mesh}


def losses(model: RetinaFace, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the paper's multi-task loss (arXiv 1905.00641, equation 1), with gender as one task more.

    Scores with hard negatives, boxes and landmarks as the original. The mesh is the paper's L1 of the
    vertices, without that of the edges: the basis holds the surface together.
    """
    heads = model.head_stages(batch["image"])
    face_BN, is_face_BN = match_anchors(model.anchors, batch["boxes"])
    picture_P, anchor_P = is_face_BN.nonzero(as_tuple=True)
    face_P = face_BN[is_face_BN]
    anchors_P4 = model.anchors[anchor_P]
    shift, scale = model.config.variance

    def found(name: str) -> Tensor:
        return heads[name][picture_P, anchor_P]

    def wanted(name: str) -> Tensor:
        return batch[name][picture_P, face_P]

    box_weights = (1 / shift, 1 / shift, 1 / scale, 1 / scale)
    boxes = encode_boxes(wanted("boxes"), anchors_P4, weights=box_weights)
    landmarks = encode_points(wanted("landmarks"), anchors_P4, variance=shift)
    mesh = encode_points(wanted("mesh"), anchors_P4)
    found_mesh = model.mesh_shifts(found("mesh_coefficients")[None])[0]
    num_faces = max(len(face_P), 1)
    values = {
        "class": hard_negative_loss(heads["class_logits"], is_face_BN),
        "box": F.smooth_l1_loss(found("box_deltas"), boxes, reduction="sum") / num_faces,
        "landmarks": F.smooth_l1_loss(
            found("landmark_deltas"), landmarks.flatten(1), reduction="sum"
        )
        / num_faces,
        "gender": F.binary_cross_entropy_with_logits(
            found("gender_logits")[:, 0], wanted("gender"), reduction="sum"
        )
        / num_faces,
        "mesh": (found_mesh - mesh).abs().mean(dim=(1, 2)).sum() / num_faces,
    }
    return {name: LOSS_WEIGHTS[name] * value for name, value in values.items()}


def match_anchors(anchors_N4: Tensor, boxes_BG4: Tensor) -> tuple[Tensor, Tensor]:
    """Return the face (B, N) of each anchor, and whether it overlaps that enough (B, N).

    Every face keeps its best anchor (utils/box_utils.py of the original).
    """
    iou_BNG = box_iou(anchors_N4.expand(len(boxes_BG4), -1, -1), boxes_BG4)
    iou_BN, face_BN = iou_BNG.max(dim=2)
    best_BG, anchor_BG = iou_BNG.max(dim=1)
    for face in range(boxes_BG4.shape[1]):
        picture = (best_BG[:, face] >= MIN_BEST_IOU).nonzero()[:, 0]
        face_BN[picture, anchor_BG[picture, face]] = face
        iou_BN[picture, anchor_BG[picture, face]] = 1.0
    return face_BN, iou_BN >= MATCH_IOU


def hard_negative_loss(logits_BN2: Tensor, is_face_BN: Tensor) -> Tensor:
    """Return the cross entropy of the faces and of the worst negatives, over the number of faces."""
    entropy_BN = F.cross_entropy(logits_BN2.mT, is_face_BN.long(), reduction="none")
    hardness_BN = torch.where(is_face_BN, -torch.inf, entropy_BN.detach())
    rank_BN = hardness_BN.argsort(dim=1, descending=True).argsort(dim=1)
    num_negatives_B1 = NEGATIVES_PER_POSITIVE * is_face_BN.sum(dim=1, keepdim=True)
    is_chosen_BN = is_face_BN | (rank_BN < num_negatives_B1.clamp(min=1))
    return entropy_BN[is_chosen_BN].sum() / is_face_BN.sum().clamp(min=1)


@functools.cache
def _training_split() -> Dataset:
    return open_dataset("shapes", split="train", kind="faces")


def main() -> None:
    """Train, with progress, and write weights and log."""
    train(
        "retinaface_tiny",
        sample=make_sample,
        losses=losses,
        defaults=Defaults(steps=3000, batch_size=16, lr=3e-3),
    )


if __name__ == "__main__":
    main()
