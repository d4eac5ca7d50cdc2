"""The VPSNet variants: how they are built, manifests, published figures."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgeseg.models import Family, ModelSpec, PrecisionRecipe
from edgeseg.models.building import configured
from edgeseg.models.labels import ClassRules
from edgeseg.models.vpsnet.config import PRESETS, STRIDES, VPSNetConfig
from edgeseg_runtime.bundle.graphs import Graph, Schedule, TensorSpec
from edgeseg_runtime.bundle.manifest import Manifest, Preprocess

if TYPE_CHECKING:
    from edgeseg.models.checkpoint import KeyTable
    from edgeseg.models.reference import ReferenceModel

PRECISION = PrecisionRecipe(
    int8=("backbone", "fpn", "flow_net", "fuse", "rpn.conv", "box_head", "mask_head"),
    half_in_mixed=("fpn", "fuse", "rpn.conv", "box_head", "mask_head"),
    half=("semantic_head", "track_head", "PyramidAtlas", "AtlasRoiAlign"),
    float32=(
        ".predict",  # flows: where maps are read
        ".enlarge_flow",
        ".offset",  # likewise
        ".predictor",
        "flow_net.coarse.2",
        "flow_net.fine.2",
    ),
)


def build(
    name: str, image_size: tuple[int, int] | None, config: Mapping[str, Any]
) -> ReferenceModel:
    """Return the model with random weights, see :class:`edgeseg.models.ModelSpec`."""
    from edgeseg.models.vpsnet.model import VPSNet

    preset = PRESETS[name]
    classes = ClassRules(counts_background=True, names_background=True)
    if "stuff_labels" in config:  # the preset's ids are those of other names
        config = {"stuff_category_ids": (), **config}
    size = image_size or config.get("image_size", preset.image_size)
    sides = {"min_size": min(size), "max_size": max(size)}
    return VPSNet(name, configured(name, preset, image_size, {**sides, **config}, classes))


def key_table(name: str, config: Mapping[str, Any] = MappingProxyType({})) -> KeyTable:
    """Return the parameter names of the official checkpoint of a variant."""
    from edgeseg.models.vpsnet import checkpoint

    flow_net = config.get("flow_net", PRESETS[name].flow_net)
    return checkpoint.FUSETRACK if flow_net == "flownet2" else checkpoint.OWN


def manifest(model: ReferenceModel) -> Manifest:
    """Return what a device has to know of ``model``; artifacts are added by the exporter."""
    from edgeseg.models.vpsnet.model import CARRIED, MAIN, SEED, VPSNet

    assert isinstance(model, VPSNet)
    config = model.config
    height, width = config.image_size
    fed = (
        TensorSpec(name="image", dtype="uint8", shape=(1, height, width, 3)),
        TensorSpec(name="image_size", dtype="int32", shape=(1, 2)),
    )
    carried = (
        _tensor("gathered", config.fpn_channels, height // STRIDES[0], width // STRIDES[0]),
        _tensor("picture", 3, height, width),
    )
    writes = {name: name for name in CARRIED}
    graphs = {
        SEED: Graph(inputs=fed, outputs=carried, writes=writes, kept=CARRIED),
        MAIN: Graph(
            inputs=(*fed, *(_tensor(f"before_{spec.name}", *spec.shape[1:]) for spec in carried)),
            outputs=(*_results(config), *carried),
            reads={f"before_{name}": name for name in CARRIED},
            writes=writes,
            kept=CARRIED,
        ),
    }
    return Manifest(
        name=model.name,
        task="panoptic",
        precision="fp32",
        graphs=graphs,
        schedule=Schedule(first=(SEED, MAIN), then=(MAIN,)),
        preprocess=Preprocess(
            height=height,
            width=width,
            resize="shortest_edge",
            min_size=config.min_size,
            max_size=config.max_size,
            interpolation="opencv_linear",
            rounding="half_up",
        ),
        postprocess={
            "num_stuff": config.num_stuff,
            "overlap_threshold": config.overlap_threshold,
            "stuff_area": config.stuff_area,
            "settles_at": "network",
            "has_unknown": False,
            "track_frames": config.track_frames,
            "original_ids": config.original_ids,
        },
        labels=(*config.labels, *config.stuff_labels),
        category_ids=(*config.category_ids, *config.stuff_ids),
    )


def _results(config: VPSNetConfig) -> tuple[TensorSpec, ...]:
    """Return the tensors that results are read from."""
    height, width = config.image_size
    rows = config.max_detections
    num_classes = config.num_stuff + config.num_classes - 1
    return (
        _tensor("contender_boxes", rows, 4),
        _tensor("contender_scores", rows),
        TensorSpec(name="contender_labels", dtype="int32", shape=(1, rows)),
        _tensor("contender_masks", rows, 28, 28),
        _tensor("contender_embeddings", rows, config.embedding_channels),
        _tensor("semantic_logits", num_classes, height // STRIDES[0], width // STRIDES[0]),
    )


def _tensor(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=(1, *shape))


_ORIGINS = {  # licence of code and weights, source of the figures
    "cityscapes_vps": (
        "CC BY-NC-SA 4.0 (weights, and the original's code, of which this has none)",
        "arXiv 2006.11339, Cityscapes-VPS",
    ),
}

FAMILY = Family(
    name="vpsnet",
    purpose="panoptic",
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
            "vpsnet_fusetrack_cityscapes", "cityscapes_vps", 225_354_839, gflops=2217.5, accuracy={}
        ),
    )
}  # fmt: skip
"""VPSNet."""
