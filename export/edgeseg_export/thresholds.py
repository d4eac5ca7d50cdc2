"""The same model with every detection let through, for checks on pictures in which it finds nothing."""

from __future__ import annotations

import dataclasses

from edgeseg.models.reference import ReferenceModel


def without_threshold(model: ReferenceModel) -> ReferenceModel | None:
    """Return a copy of a model that gives its best detections however low they score.

    None if the model has no threshold, or has none any more.
    """
    option = model.threshold_option
    if option is None or model.score_threshold <= 0:
        return None
    config = dataclasses.replace(model.config, **{option: 0.0})
    copy = type(model)(model.name, config)  # as every family's models are made
    copy.load_state_dict(model.state_dict(), assign=True)  # the same parameters, not copies
    return copy.eval()
