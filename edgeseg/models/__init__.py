"""The reference models: a plain table of names, and one description for each.

Nothing here imports torch; a family's modules are imported when one of its models is asked for.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from edgeseg_runtime.manifest import Manifest

if TYPE_CHECKING:
    from edgeseg.models.key_table import KeyTable
    from edgeseg.models.reference import ReferenceModel

Weights: TypeAlias = str | Path | Mapping[str, Any] | None
Files: TypeAlias = Mapping[str, tuple[str, Mapping[str, Any]]]
Constants: TypeAlias = Callable[[Any], Mapping[str, Sequence[float]]]

WEIGHTS_FOLDER = Path(__file__).parent.parent / "weights"

_CENTERNET = "edgeseg.models.centernet.spec"
_HOURGLASS = "edgeseg.models.hourglass.spec"
_LANDMARKS = "edgeseg.models.landmarks.spec"
_MASKRCNN = "edgeseg.models.maskrcnn.spec"
_RETINAFACE = "edgeseg.models.retinaface.spec"
_YOLACT = "edgeseg.models.yolact.spec"
MODELS: dict[str, str] = {
    "centernet_dla34": _CENTERNET,
    "centernet_dla34_pascal": _CENTERNET,
    "centernet_dla34_pose": _CENTERNET,
    "centernet_dlav0_34": _CENTERNET,
    "centernet_hourglass104": _CENTERNET,
    "centernet_hourglass104_pose": _CENTERNET,
    "centernet_resnet101_dcn": _CENTERNET,
    "centernet_resnet101_dcn_pascal": _CENTERNET,
    "centernet_resnet18_dcn": _CENTERNET,
    "centernet_resnet18_dcn_pascal": _CENTERNET,
    "centernet_tiny": _CENTERNET,
    "hourglass_stack2": _HOURGLASS,
    "hourglass_stack8": _HOURGLASS,
    "hourglass_tiny": _HOURGLASS,
    "keypointrcnn_resnet50_fpn": _MASKRCNN,
    "landmarks_heatmap_hourglass": _LANDMARKS,
    "landmarks_heatmap_hrnet_w18": _LANDMARKS,
    "landmarks_heatmap_tiny": _LANDMARKS,
    "landmarks_regression_pfld": _LANDMARKS,
    "landmarks_regression_tiny": _LANDMARKS,
    "maskrcnn_resnet101_fpn_3x": _MASKRCNN,
    "maskrcnn_resnet50_fpn": _MASKRCNN,
    "maskrcnn_resnet50_fpn_3x": _MASKRCNN,
    "maskrcnn_resnet50_fpn_v2": _MASKRCNN,
    "maskrcnn_tiny": _MASKRCNN,
    "retinaface_mobilenet025": _RETINAFACE,
    "retinaface_resnet50": _RETINAFACE,
    "retinaface_tiny": _RETINAFACE,
    "yolact_darknet53": _YOLACT,
    "yolact_plus_resnet101": _YOLACT,
    "yolact_plus_resnet50": _YOLACT,
    "yolact_resnet101": _YOLACT,
    "yolact_resnet50": _YOLACT,
    "yolact_resnet50_pascal": _YOLACT,
    "yolact_tiny": _YOLACT,
}
"""Model name -> module that describes it in its table ``SPECS``."""


@dataclass(frozen=True, kw_only=True)
class PrecisionRecipe:
    """Which modules of a family may compute with fewer bits; all others stay float32.

    Names are those of modules ("backbone", "fpn.output") and stand for everything inside them; the
    longest one that fits counts. A name behind a dot (".conv3") stands for the modules of that name
    inside any other, and counts before all others. Coordinates, decoding, soft-max, suppression and
    sampling grids are never named.

    Attributes:
        int8: modules whose convolutions lose little in int8.
        half_in_mixed: those of ``int8`` that the precision "mixed" computes in float16. (YolactEdge
            has its backbone and prototypes in int8, its pyramid and heads in float16.)
        half: further modules that may compute in float16; those of ``int8`` may, too.
        float32: exceptions from both.
    """

    int8: tuple[str, ...] = ()
    half_in_mixed: tuple[str, ...] = ()
    half: tuple[str, ...] = ()
    float32: tuple[str, ...] = ()


def no_variants(_model: ReferenceModel) -> dict[str, ReferenceModel]:
    """Return nothing: the model has one shape of pictures."""
    return {}


def no_constants(_config: Any) -> dict[str, Sequence[float]]:
    """Return nothing: the checkpoints hold weights only."""
    return {}


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What is known of a model before it is built.

    ``task`` is what one takes it for: "instances", "keypoints" or "landmarks". Its manifest's task,
    how a device reads its outputs, may be another: instances can have key points.

    ``manifest(model)`` describes a model to a device, without artifacts. ``variants(model)`` are the
    same model, weights included, for further shapes of pictures, by name. ``num_parameters``
    is the original's own figure where it gives one; ``gflops`` are the multiply-adds of one picture
    of the default size with all its results, as counted here; ``accuracy`` holds published metrics,
    from ``source``. ``precision`` is used by exports below float32.

    ``build(name, image_size, config)`` returns the module with random weights. ``image_size`` is
    height and width of the network input, the variant's own if None; ``config`` holds fields of the
    family's configuration that replace the variant's. It raises ``ValueError`` for an unknown or
    invalid field. ``key_table(name, config)`` gives the parameter names of the official checkpoint.

    ``files`` are patterns of the names of official checkpoints that another variant, or another size,
    would load without complaint -> the variant that they are of, and the fields that they need.
    ``constants(config)`` are numbers that some of the original's checkpoints hold and that its
    configuration has to agree with, by the pattern of their names.
    """

    name: str
    task: str
    family: str
    image_size: tuple[int, int]
    num_parameters: int
    gflops: float
    licence: str
    source: str
    accuracy: Mapping[str, float] = field(default_factory=dict)
    has_shapes_weights: bool = False
    precision: PrecisionRecipe = PrecisionRecipe()
    build: Callable[[str, tuple[int, int] | None, Mapping[str, Any]], ReferenceModel]
    key_table: Callable[[str, Mapping[str, Any]], KeyTable]
    manifest: Callable[[ReferenceModel], Manifest]
    variants: Callable[[ReferenceModel], Mapping[str, ReferenceModel]] = no_variants
    files: Files = field(default_factory=dict)
    constants: Constants = no_constants


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the variants of a family have in common; the fields are those of :class:`ModelSpec`.

    Attributes:
        name: folder of the family.
        image_size: of variants whose preset names none.
        presets: variant -> what differs from the configuration's defaults.
        origins: where a variant comes from -> licence of code and weights, source of the figures.
            "edgeseg" are those that ship with weights.
    """

    name: str
    task: str
    image_size: tuple[int, int]
    presets: Mapping[str, Mapping[str, Any]]
    origins: Mapping[str, tuple[str, str]]
    precision: PrecisionRecipe
    build: Callable[[str, tuple[int, int] | None, Mapping[str, Any]], ReferenceModel]
    key_table: Callable[[str, Mapping[str, Any]], KeyTable]
    manifest: Callable[[ReferenceModel], Manifest]
    variants: Callable[[ReferenceModel], Mapping[str, ReferenceModel]] = no_variants
    files: Files = field(default_factory=dict)
    constants: Constants = no_constants

    def spec(
        self,
        name: str,
        origin: str,
        num_parameters: int,
        *,
        task: str | None = None,
        gflops: float,
        accuracy: Mapping[str, float],
    ) -> ModelSpec:
        """Return the description of one variant; its task is the family's if None."""
        licence, source = self.origins[origin]
        return ModelSpec(
            name=name,
            task=task or self.task,
            family=self.name,
            image_size=self.presets[name].get("image_size", self.image_size),
            num_parameters=num_parameters,
            gflops=gflops,
            licence=licence,
            source=source,
            accuracy=accuracy,
            has_shapes_weights=origin == "edgeseg",
            precision=self.precision,
            build=self.build,
            key_table=self.key_table,
            manifest=self.manifest,
            variants=self.variants,
            files=self.files,
            constants=self.constants,
        )


def list_models() -> list[str]:
    """Return the names that :func:`get_spec` and ``create_model`` know, sorted."""
    return sorted(MODELS)


def get_spec(name: str) -> ModelSpec:
    """Return the description of a model.

    Raises:
        ValueError: no model has this name; the message lists the closest ones.
    """
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.4) or list_models()
        raise ValueError(f"model {name!r} found, expected one of {', '.join(close)}")
    spec = importlib.import_module(MODELS[name]).SPECS[name]
    assert isinstance(spec, ModelSpec)
    return spec


def model_manifest(model: ReferenceModel) -> Manifest:
    """Return the manifest of a reference model, without artifacts.

    Raises:
        ValueError: the module was not made by ``edgeseg.create_model``.
    """
    name = getattr(model, "name", None)
    if not isinstance(name, str) or name not in MODELS:
        raise ValueError(
            f"{type(model).__name__} found, expected a model made by edgeseg.create_model"
        )
    return get_spec(name).manifest(model)


def shapes_weights_path(name: str) -> Path:
    """Return the file of a model's weights for the built-in shapes data.

    Raises:
        ValueError: the model ships without such weights.
    """
    path = WEIGHTS_FOLDER / f"{name}.safetensors"
    if not path.is_file():
        shipped = sorted(file.stem for file in WEIGHTS_FOLDER.glob("*.safetensors"))
        raise ValueError(
            f"weights='shapes' found for {name}, which ships without them; "
            f"expected one of {', '.join(shipped)}, or the path of a checkpoint"
        )
    return path
