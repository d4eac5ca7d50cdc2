"""The reference models: a plain table of names, and one description for each.

Nothing here imports torch; a family's modules are imported when one of its models is asked for.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from edgeseg.models.outside import is_outside, specs_of_module, split_name
from edgeseg_runtime.bundle.manifest import Manifest

if TYPE_CHECKING:
    from edgeseg.models.key_table import KeyTable
    from edgeseg.models.reference import ReferenceModel

Weights: TypeAlias = str | Path | Mapping[str, Any] | None
Files: TypeAlias = Mapping[str, tuple[str, Mapping[str, Any]]]
Constants: TypeAlias = Callable[[Any], Mapping[str, Sequence[float]]]

WEIGHTS_FOLDER = Path(__file__).parent.parent / "weights"
SHAPES = "shapes"
"""Keyword of the weights for the built-in data that ship with the package."""
RANDOM = "random"
"""What a bundle's provenance calls the weights of a model that was made without any."""

_CENTERNET = "edgeseg.models.centernet.spec"
_CORNERNET = "edgeseg.models.cornernet.spec"
_DENSEPOSE = "edgeseg.models.densepose.spec"
_HOURGLASS = "edgeseg.models.hourglass.spec"
_LANDMARKS = "edgeseg.models.landmarks.spec"
_MASKRCNN = "edgeseg.models.maskrcnn.spec"
_RETINAFACE = "edgeseg.models.retinaface.spec"
_UPSNET = "edgeseg.models.upsnet.spec"
_VPSNET = "edgeseg.models.vpsnet.spec"
_YOLACT = "edgeseg.models.yolact.spec"
_YOLACT_EDGE = "edgeseg.models.yolact_edge.spec"
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
    "centernet_triplet_hourglass104": _CORNERNET,
    "centernet_triplet_hourglass52": _CORNERNET,
    "cornernet_hourglass104": _CORNERNET,
    "cornernet_squeeze": _CORNERNET,
    "densepose_resnet101_fpn": _DENSEPOSE,
    "densepose_resnet101_fpn_dl": _DENSEPOSE,
    "densepose_resnet101_fpn_legacy": _DENSEPOSE,
    "densepose_resnet50_fpn": _DENSEPOSE,
    "densepose_resnet50_fpn_dl": _DENSEPOSE,
    "densepose_resnet50_fpn_dl_wc1": _DENSEPOSE,
    "densepose_resnet50_fpn_dl_wc2": _DENSEPOSE,
    "densepose_resnet50_fpn_legacy": _DENSEPOSE,
    "densepose_resnet50_fpn_wc1": _DENSEPOSE,
    "densepose_resnet50_fpn_wc1m": _DENSEPOSE,
    "densepose_resnet50_fpn_wc2": _DENSEPOSE,
    "densepose_resnet50_fpn_wc2m": _DENSEPOSE,
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
    "panoptic_fpn_resnet101_3x": _MASKRCNN,
    "panoptic_fpn_resnet50_3x": _MASKRCNN,
    "retinaface_mobilenet025": _RETINAFACE,
    "retinaface_resnet50": _RETINAFACE,
    "retinaface_tiny": _RETINAFACE,
    "upsnet_resnet101_cityscapes": _UPSNET,
    "upsnet_resnet101_dcn_coco": _UPSNET,
    "upsnet_resnet50_cityscapes": _UPSNET,
    "upsnet_resnet50_coco": _UPSNET,
    "vpsnet_fusetrack_cityscapes": _VPSNET,
    "yolact_darknet53": _YOLACT,
    "yolact_edge_mobilenetv2": _YOLACT_EDGE,
    "yolact_edge_resnet101": _YOLACT_EDGE,
    "yolact_edge_resnet50": _YOLACT_EDGE,
    "yolact_edge_vid_minimal": _YOLACT_EDGE,
    "yolact_edge_vid_resnet101": _YOLACT_EDGE,
    "yolact_edge_vid_resnet50": _YOLACT_EDGE,
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


class Config(Protocol):
    """What the configurations of all families have in common; they are frozen dataclasses."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the network input."""
        ...


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What is known of a model before it is built.

    ``purpose`` is what one takes it for: "instances", "panoptic", "surfaces", "keypoints" or "landmarks". The task of its
    manifest, how a device reads its outputs, may be another: instances can have key points.

    ``manifest(model)`` describes a model to a device, without artifacts. ``variants(model)`` are the
    same model, weights included, for further shapes of pictures, by name. ``num_parameters``
    is the original's own figure where it gives one; ``gflops`` are the multiply-adds of one picture
    of the default size with all its results, as counted here; ``accuracy`` holds published metrics,
    from ``source``. ``precision`` is used by exports below float32. ``preset`` is the variant's
    configuration. ``weights`` are the files that ship with the model, by the keyword that stands for
    them: "shapes" for those of the built-in data.

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
    purpose: str
    family: str
    num_parameters: int
    gflops: float
    licence: str
    source: str
    accuracy: Mapping[str, float] = field(default_factory=dict)
    preset: Config
    weights: Mapping[str, Path] = field(default_factory=dict)
    precision: PrecisionRecipe = PrecisionRecipe()
    build: Callable[[str, tuple[int, int] | None, Mapping[str, Any]], ReferenceModel]
    key_table: Callable[[str, Mapping[str, Any]], KeyTable]
    manifest: Callable[[ReferenceModel], Manifest]
    variants: Callable[[ReferenceModel], Mapping[str, ReferenceModel]] = no_variants
    files: Files = field(default_factory=dict)
    constants: Constants = no_constants

    def __post_init__(self) -> None:
        if not is_dataclass(self.preset):
            raise ValueError(
                f"the preset of {self.name} is a {type(self.preset).__name__}, expected a dataclass "
                "with a field image_size"
            )
        if RANDOM in self.weights:
            raise ValueError(
                f"weights {RANDOM!r} found for {self.name}, expected another keyword: this one "
                "stands for no weights"
            )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the network input, unless other ones are asked for."""
        return self.preset.image_size

    def find_weights(self, weights: Weights) -> Weights:
        """Return the file that a keyword of shipped weights stands for; anything else as it is.

        Raises:
            ValueError: "shapes" for a model that ships without such weights.
        """
        if not isinstance(weights, str):
            return weights
        if weights == SHAPES and SHAPES not in self.weights:
            expected = " or ".join([*map(repr, self.weights), "the path of a checkpoint"])
            raise ValueError(
                f"weights='shapes' found for {self.name}, which ships without them; "
                f"expected {expected}"
            )
        return self.weights.get(weights, weights)


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the variants of a family have in common; the fields are those of :class:`ModelSpec`.

    Attributes:
        name: folder of the family.
        presets: variant -> its configuration.
        origins: where a variant comes from -> licence of code and weights, source of the figures.
            "edgeseg" are those that ship with weights for the built-in data.
    """

    name: str
    purpose: str
    presets: Mapping[str, Config]
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
        purpose: str | None = None,
        gflops: float,
        accuracy: Mapping[str, float],
        weights: Mapping[str, Path] | None = None,
    ) -> ModelSpec:
        """Return the description of one variant.

        Its purpose is the family's if None. Its weights are then those in the package, for the origin
        "edgeseg", or none.
        """
        licence, source = self.origins[origin]
        if weights is None:
            has_weights = origin == "edgeseg"
            weights = {SHAPES: WEIGHTS_FOLDER / f"{name}.safetensors"} if has_weights else {}
        return ModelSpec(
            name=name,
            purpose=purpose or self.purpose,
            family=self.name,
            num_parameters=num_parameters,
            gflops=gflops,
            licence=licence,
            source=source,
            accuracy=accuracy,
            preset=self.presets[name],
            weights=weights,
            precision=self.precision,
            build=self.build,
            key_table=self.key_table,
            manifest=self.manifest,
            variants=self.variants,
            files=self.files,
            constants=self.constants,
        )


def list_models(module: str | None = None) -> list[str]:
    """Return the names that :func:`get_spec` and ``create_model`` know, sorted.

    Args:
        module: a module outside the package, which is imported: its models are listed, as MODULE:NAME.

    Raises:
        ValueError: there is no such module, or it has no table of models.
        FamilyImportError: the module fails when it is imported.
    """
    if module is None:
        return sorted(MODELS)
    return [f"{module}:{name}" for name in sorted(specs_of_module(module))]


def get_spec(name: str) -> ModelSpec:
    """Return the description of a model, the package's own or MODULE:NAME.

    A module outside the package is imported: give a name that a user has given, never one out of a
    bundle.

    Raises:
        ValueError: no model has this name, and the message lists the closest ones; or there is no such
            module, or it describes no models.
        FamilyImportError: the module fails when it is imported.
    """
    if is_outside(name):
        return _outside_spec(*split_name(name))
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.4) or list_models()
        raise ValueError(
            f"model {name!r} found, expected one of {', '.join(close)}; a model outside edgeseg is "
            "MODULE:NAME"
        )
    spec = importlib.import_module(MODELS[name]).SPECS[name]
    assert isinstance(spec, ModelSpec)
    return spec


def _outside_spec(module: str, name: str) -> ModelSpec:
    specs = specs_of_module(module)
    if name not in specs:
        close = difflib.get_close_matches(name, specs, n=3, cutoff=0.4) or sorted(specs)
        raise ValueError(
            f"model {name!r} found, expected one of those of module {module}: {', '.join(close)}"
        )
    spec = specs[name]
    if not isinstance(spec, ModelSpec):
        raise ValueError(
            f"SPECS[{name!r}] of module {module} is of type {type(spec).__name__}, expected an "
            "edgeseg.models.ModelSpec, as Family.spec returns it"
        )
    return spec


def model_manifest(model: ReferenceModel) -> Manifest:
    """Return the manifest of a reference model, without artifacts.

    Raises:
        ValueError: the module was not made by ``edgeseg.create_model``.
    """
    name = getattr(model, "name", None)
    if not isinstance(name, str) or not (name in MODELS or is_outside(name)):
        raise ValueError(
            f"{type(model).__name__} found, expected a model made by edgeseg.create_model"
        )
    spec = get_spec(name)
    return replace(spec.manifest(model), name=spec.name)
