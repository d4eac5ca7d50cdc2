"""The YolactEdge variants: how they are built, manifests, published figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgeseg.models import Family, ModelSpec, PrecisionRecipe
from edgeseg.models.building import configured
from edgeseg.models.labels import ClassRules
from edgeseg.models.yolact import spec as yolact
from edgeseg.models.yolact_edge.config import PRESETS, YolactEdgeConfig
from edgeseg_runtime.bundle.graphs import Graph, Schedule, TensorSpec
from edgeseg_runtime.bundle.manifest import Manifest

if TYPE_CHECKING:
    from edgeseg.models.checkpoint import KeyTable
    from edgeseg.models.reference import ReferenceModel

PRECISION = PrecisionRecipe(
    int8=("backbone", "fpn", "prototypes", "head.hidden", "partial.reduce", "partial.flow_net", "partial.spa"),
    half_in_mixed=("fpn", "head.hidden", "partial.spa"),
    half=("head",),
    float32=(
        "prototypes.output",  # the masks are sums of these 32
        ".flow",  # where maps are read, and what carries their values: cheap
        ".up_flow",
        ".scale",
        ".bias",
    ),
)  # fmt: skip
"""As the original has it: backbone, prototypes and flow in int8, pyramid, heads and correction in float16."""


def build(
    name: str, image_size: tuple[int, int] | None, config: Mapping[str, Any]
) -> ReferenceModel:
    """Return the model with random weights, see :class:`edgeseg.models.ModelSpec`.

    The sizes of the priors follow ``image_size``, as in YOLACT.
    """
    from edgeseg.models.yolact_edge.model import YolactEdge

    preset = PRESETS[name]
    scales = yolact.scales_at(preset, image_size or config.get("image_size"))
    classes = ClassRules(counts_background=True)
    return YolactEdge(
        name, configured(name, preset, image_size, {"pred_scales": scales, **config}, classes)
    )


def key_table(name: str, config: Mapping[str, Any] = MappingProxyType({})) -> KeyTable:
    """Return the parameter names of the official checkpoint of a variant."""
    from edgeseg.models.yolact_edge import checkpoint

    tables = {"mobilenet_v2": checkpoint.MOBILENET, "small": checkpoint.OWN}
    return tables.get(config.get("backbone", PRESETS[name].backbone), checkpoint.RESNET)


def manifest(model: ReferenceModel) -> Manifest:
    """Return what a device has to know of ``model``; artifacts are added by the exporter."""
    from edgeseg.models.yolact_edge.model import CARRIED, KEY, STEP, YolactEdge

    assert isinstance(model, YolactEdge)
    still = yolact.manifest(model)
    if not model.config.is_video:
        return still
    whole = still.graphs["main"]
    carried = _carried(model.config)
    read = [dataclasses.replace(spec, name=f"key_{spec.name}") for spec in carried]
    graphs = {
        KEY: dataclasses.replace(
            whole,
            outputs=(*whole.outputs, *carried),
            writes={name: name for name in CARRIED},
            kept=CARRIED,
        ),
        STEP: Graph(
            inputs=(*whole.inputs, *read),
            outputs=whole.outputs,
            reads={spec.name: name for spec, name in zip(read, CARRIED, strict=True)},
        ),
    }
    schedule = Schedule(first=(KEY,), then=(STEP,), first_every=model.config.key_interval)
    return dataclasses.replace(still, graphs=graphs, schedule=schedule)


def _carried(config: YolactEdgeConfig) -> tuple[TensorSpec, ...]:
    """Return the tensors that a key frame leaves to the frames behind it."""
    sizes = config.map_sizes
    channels = config.fpn_channels
    return (
        TensorSpec(name="merged4", dtype="float32", shape=(1, channels, *sizes[1])),
        TensorSpec(name="merged5", dtype="float32", shape=(1, channels, *sizes[2])),
        TensorSpec(name="reduced", dtype="float32", shape=(1, config.flow_channels, *sizes[0])),
    )


_ORIGINS = {  # licence of code and weights, source of the figures
    "coco": ("MIT (code), weights not stated", "haotian-liu/yolact_edge README, COCO test-dev"),
    "video": (
        "MIT (code), weights not stated",
        "haotian-liu/yolact_edge README, YouTube-VIS, the authors' own split",
    ),
}

FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "yolact_im400": ("yolact_edge_resnet101", {"image_size": (400, 400)}),
    "yolact_im700": ("yolact_edge_resnet101", {"image_size": (700, 700)}),
    "yolact_resnet50_pascal": ("yolact_resnet50_pascal", {}),
}
"""See :class:`edgeseg.models.ModelSpec`: models of pictures read YOLACT's checkpoints, without its priors."""

FAMILY = Family(
    name="yolact_edge",
    purpose="instances",
    presets=PRESETS,
    origins=_ORIGINS,
    precision=PRECISION,
    build=build,
    key_table=key_table,
    files=FILES,
    manifest=manifest,
)

SPECS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        FAMILY.spec(
            "yolact_edge_mobilenetv2", "coco", 8_122_175,
            gflops=34.3, accuracy={"mask_AP": 0.221},
        ),
        FAMILY.spec(
            "yolact_edge_resnet50", "coco", 31_144_383,
            gflops=59.2, accuracy={"mask_AP": 0.282},
        ),
        FAMILY.spec(
            "yolact_edge_resnet101", "coco", 50_136_511,
            gflops=82.4, accuracy={"mask_AP": 0.298},
        ),
        FAMILY.spec(
            "yolact_edge_vid_resnet50", "video", 35_160_911,
            gflops=58.1, accuracy={"mask_AP": 0.442},
        ),
        FAMILY.spec(
            "yolact_edge_vid_resnet101", "video", 54_153_039,
            gflops=81.3, accuracy={"mask_AP": 0.469},
        ),
        FAMILY.spec(
            "yolact_edge_vid_minimal", "video", 51_793_231,
            gflops=81.3, accuracy={},
        ),
    )
}  # fmt: skip
"""YolactEdge."""
