"""Export, verify and deploy segmentation and key-point models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.models import list_models
from edgeseg_runtime import __version__

if TYPE_CHECKING:
    from edgeseg.models.reference import ReferenceModel
    from edgeseg_runtime import Predictor

__all__ = ["__version__", "create_model", "export_bundle", "list_models", "torch_predictor"]


def create_model(
    name: str,
    *,
    weights: str | Path | Mapping[str, Any] | None = None,
    weights_key: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    **config: Any,
) -> ReferenceModel:
    """Return a reference model in evaluation mode.

    Args:
        name: one of :func:`list_models`, or MODULE:NAME, such as "my_package.my_family:my_model", for
            one of a module outside edgeseg, which is imported.
        weights: path or state dict of an official checkpoint, "shapes" for the small weights that
            ship with the package, or None for random weights. A training checkpoint serves too: the
            part of it that fits is taken, averaged weights (a model_ema) before plain ones. A model
            outside edgeseg may ship with weights under keywords of its own.
        weights_key: the part to take, such as "model", where several fit.
        image_size: height and width of the network input, or one number for a square; the model's
            default if None.
        **config: fields of the family's configuration, such as ``num_classes``,
            ``box_detections_per_img`` or ``box_score_thresh``.

    Raises:
        ValueError: an unknown name or option, or an invalid size.
        CheckpointError: a damaged weight file, or one of another model.
        FamilyImportError: a module outside edgeseg that fails when it is imported.
    """
    from edgeseg.models.building import create

    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    return create(name, weights=weights, weights_key=weights_key, image_size=size, config=config)


def torch_predictor(model: ReferenceModel) -> Predictor[Any]:
    """Return the reference: ``model`` behind the same pre- and post-processing as on a device.

    The predictor takes (H, W, 3) uint8 BGR pictures and returns results in source pixels.
    """
    from edgeseg.models.torch_backend import torch_predictor as build

    return build(model)


def export_bundle(model: ReferenceModel, folder: str | Path, **options: Any) -> Path:
    """Export ``model`` as a bundle that ``edgeseg_runtime.load`` opens; return its folder.

    See :func:`edgeseg_export.bundle.export_bundle` for the options and the errors raised.
    """
    from edgeseg_export.bundle import export_bundle as export

    return export(model, folder, **options)
