"""The RetinaFace variants: how they are built, manifests, published figures."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgeseg.models import Family, ModelSpec, PrecisionRecipe
from edgeseg.models.building import configured
from edgeseg.models.labels import ClassRules
from edgeseg.models.retinaface.config import PRESETS
from edgeseg_runtime.bundle.manifest import Manifest, Preprocess, TensorSpec, one_graph

if TYPE_CHECKING:
    from edgeseg.models.checkpoint import KeyTable
    from edgeseg.models.reference import ReferenceModel

CLASSES = ClassRules(counts_background=True, names_background=True, num_classes=2)
LANDMARKS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
"""Left and right as seen in the picture."""

PRECISION = PrecisionRecipe(
    int8=("backbone", "pyramid", "context"),
    half_in_mixed=("pyramid", "context"),
    half=("class_heads", "box_heads", "landmark_heads", "gender_heads", "mesh_heads"),
)


def build(
    name: str, image_size: tuple[int, int] | None, config: Mapping[str, Any]
) -> ReferenceModel:
    """Return the model with random weights, see :class:`edgeseg.models.ModelSpec`."""
    from edgeseg.models.retinaface.model import RetinaFace

    return RetinaFace(name, configured(name, PRESETS[name], image_size, config, CLASSES))


def key_table(name: str, config: Mapping[str, Any] = MappingProxyType({})) -> KeyTable:
    """Return the parameter names of the official checkpoint of a variant."""
    from edgeseg.models.retinaface import checkpoint

    tables = {"mobilenet025": checkpoint.MOBILENET, "resnet50": checkpoint.RESNET}
    return tables.get(config.get("backbone", PRESETS[name].backbone), checkpoint.OWN)


def manifest(model: ReferenceModel) -> Manifest:
    """Return what a device has to know of ``model``; artifacts are added by the exporter."""
    from edgeseg.models.retinaface.model import RetinaFace

    assert isinstance(model, RetinaFace)
    config = model.config
    height, width = config.image_size
    shapes = {
        "boxes": (4,),
        "scores": (),
        "labels": (),
        "landmarks": (config.num_landmarks, 2),
        "gender": (),
        "mesh": (config.num_vertices, 3),
    }
    return Manifest(
        name=model.name,
        task="instances",
        precision="fp32",
        graphs=one_graph(
            inputs=(TensorSpec(name="image", dtype="uint8", shape=(1, height, width, 3)),),
            outputs=tuple(
                TensorSpec(
                    name=name,
                    dtype="int32" if name == "labels" else "float32",
                    shape=(1, config.keep_top_k, *shapes[name]),
                )
                for name in model.outputs
            ),
        ),
        preprocess=Preprocess(
            height=height,
            width=width,
            resize=config.resize,
            pad_value=config.mean,  # the original pads the normalised picture with zeros
        ),
        postprocess={"score_threshold": 0.0},
        labels=config.labels,
        category_ids=config.category_ids,
        keypoint_names=landmark_names(config.num_landmarks) if model.has("landmarks") else (),
    )


def landmark_names(num_landmarks: int) -> tuple[str, ...]:
    """Return a name for each landmark: those of a face for five, else numbers."""
    if num_landmarks == len(LANDMARKS):
        return LANDMARKS
    return tuple(f"point_{number}" for number in range(num_landmarks))


_ORIGINS = {  # licence of code and weights, source of the figures
    "Pytorch_Retinaface": (
        "MIT (code), weights not stated",
        "README of Pytorch_Retinaface, WIDER FACE val, single scale, original size",
    ),
    "edgeseg": (
        "Apache-2.0 (code and weights)",
        "benchmarks/results/retinaface_tiny_bench.md, 200 pictures of shapes faces val",
    ),
}


FAMILY = Family(
    name="retinaface",
    purpose="instances",
    presets=PRESETS,
    origins=_ORIGINS,
    precision=PRECISION,
    build=build,
    key_table=key_table,
    manifest=manifest,
)

SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        FAMILY.spec(
            "retinaface_mobilenet025", "Pytorch_Retinaface", 426_608, gflops=1.0,
            accuracy={"easy_AP": 0.9070, "medium_AP": 0.8816, "hard_AP": 0.7382},
        ),
        FAMILY.spec(
            "retinaface_resnet50", "Pytorch_Retinaface", 27_293_600, gflops=77.3,
            accuracy={"easy_AP": 0.9548, "medium_AP": 0.9404, "hard_AP": 0.8443},
        ),
        FAMILY.spec(
            "retinaface_tiny", "edgeseg", 505_305, gflops=0.1,
            accuracy={"box_AP": 0.715, "landmark_NME": 0.069, "gender": 0.777, "mesh_NME": 0.073},
        ),
    )
}  # fmt: skip
