"""The Spotter variants: how they are built, what a device has to know of them, what they measure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.models import Family, ModelSpec, PrecisionRecipe
from edgeseg.models.building import configured
from edgeseg.models.labels import ClassRules
from edgeseg_runtime.bundle.manifest import Manifest, Preprocess, TensorSpec, one_graph
from spotter.config import PRESETS

if TYPE_CHECKING:
    from edgeseg.models.key_table import KeyTable
    from edgeseg.models.reference import ReferenceModel
    from spotter.model import Spotter

WEIGHTS_FOLDER = Path(__file__).parent / "weights"

PRECISION = PrecisionRecipe(
    int8=("body", "head.conv"),
    half_in_mixed=("head.conv",),
    float32=("head.predictor",),  # scores and sizes are read from it as they are
)


def build(name: str, image_size: tuple[int, int] | None, config: Mapping[str, Any]) -> Spotter:
    """Return the model with random weights, see `edgeseg.models.ModelSpec`."""
    from spotter.model import Spotter

    return Spotter(name, configured(name, PRESETS[name], image_size, config, ClassRules()))


def key_table(_name: str, _config: Mapping[str, Any]) -> KeyTable:
    """Return the parameter names of the checkpoints of a variant."""
    from spotter.checkpoint import OWN

    return OWN


def manifest(model: ReferenceModel) -> Manifest:
    """Return what a device has to know of ``model``; artifacts are added by the exporter."""
    from spotter.model import Spotter

    assert isinstance(model, Spotter)
    config = model.config
    height, width = config.image_size
    num_results = config.max_detections
    return Manifest(
        name=model.name,
        task="instances",
        precision="fp32",
        graphs=one_graph(
            inputs=(TensorSpec(name="image", dtype="uint8", shape=(1, height, width, 3)),),
            outputs=(
                TensorSpec(name="boxes", dtype="float32", shape=(1, num_results, 4)),
                TensorSpec(name="scores", dtype="float32", shape=(1, num_results)),
                TensorSpec(name="labels", dtype="int32", shape=(1, num_results)),
                TensorSpec(name="fill", dtype="float32", shape=(1, num_results)),
            ),
        ),
        preprocess=Preprocess(height=height, width=width, resize="letterbox"),
        postprocess={"score_threshold": 0.0},
        labels=config.labels,
        category_ids=config.category_ids,
    )


FAMILY = Family(
    name="spotter",
    purpose="instances",
    presets=PRESETS,
    origins={
        "trained": ("Apache-2.0 (code and weights)", "README.md, 200 pictures of shapes val"),
        "untrained": ("Apache-2.0 (code), no weights", "a structure without weights"),
    },
    precision=PRECISION,
    build=build,
    key_table=key_table,
    manifest=manifest,
)

SPECS: Mapping[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        FAMILY.spec(
            "spotter_tiny",
            "trained",
            117_899,
            gflops=0.036,
            accuracy={"box_AP": 0.194},
            weights={"shapes": WEIGHTS_FOLDER / "spotter_tiny.safetensors"},
        ),
        FAMILY.spec("spotter_small", "untrained", 467_851, gflops=0.14, accuracy={}),
    )
}
