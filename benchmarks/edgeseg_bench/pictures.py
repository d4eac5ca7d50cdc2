"""Pictures that a user names: of a folder, a pattern or a file, or of a data set."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.models import model_manifest
from edgeseg_bench.datasets import open_training_split
from edgeseg_bench.evaluation import dataset_kind, pictures_seen
from edgeseg_runtime import Source
from edgeseg_runtime.progress import Progress, silent

if TYPE_CHECKING:
    from edgeseg.models.reference import ReferenceModel


def is_data_set(text: str) -> bool:
    """Tell whether a text names a data set, "shapes" or "coco:DIR", and not pictures on disk."""
    return text == "shapes" or (":" in text and not Path(text).exists())


def first_pictures(source: Path, count: int) -> list[Any]:
    """Return the first pictures of a folder, pattern or file.

    Raises:
        SourceError: there is nothing to read.
    """
    return [frame.image for frame in itertools.islice(Source(source), count)]


def calibration_pictures(
    source: str,
    count: int,
    model: ReferenceModel,
    *,
    progress: Progress = silent,
) -> list[Any]:
    """Return pictures of a folder, or what the model would look at in those of a data set.

    Of a data set they come from the training split: accuracy is measured on the other. Pictures
    that cannot be read are left out, of either.

    Raises:
        SourceError: there is nothing to read.
        ValueError: no such data set.
    """
    if not is_data_set(source):
        return first_pictures(Path(source), count)
    manifest = model_manifest(model)
    samples = open_training_split(
        source,
        kind=dataset_kind(manifest),
        limit=count,
        on_picture=functools.partial(progress, "check the pictures"),
    )
    return [seen.image for seen in pictures_seen(manifest, samples, limit=count)]
