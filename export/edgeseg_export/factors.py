"""Keeps in a graph by what the channels of its values are divided, so that two graphs of one model can be compared.

Factors are 2^(k / `STEPS`); k is a letter of `LETTERS`. They stand in the model's metadata, which no engine reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgeseg_export.onnx_model import Array, OnnxModel

Doubles = npt.NDArray[np.float64]

KEY = "edgeseg.channel_factors"
"""Of the metadata: JSON, value -> a letter for each channel."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
ONE = len(LETTERS) // 2
STEPS = 4
"""Of a factor of 2."""


def nearest_factors(factors: Doubles) -> Doubles:
    """Return the factors that letters stand for."""
    return np.exp2((_letters(factors) - ONE) / STEPS)


def with_factors(model: OnnxModel, factors: Mapping[str, Array]) -> OnnxModel:
    """Return the model, changed in place, with the factors that are not 1 in its metadata.

    Args:
        model: a graph.
        factors: value -> [C] what its channels are divided by, from :func:`nearest_factors`.
    """
    texts = {
        value: "".join(LETTERS[letter] for letter in _letters(of_channels))
        for value, of_channels in factors.items()
        if (of_channels != 1).any()
    }
    if texts:
        model.proto.metadata_props.add(key=KEY, value=json.dumps(texts, separators=(",", ":")))
    return model


def factors_of(model: OnnxModel) -> dict[str, Doubles]:
    """Return value -> [C] what its channels are divided by; values whose channels are not are left out."""
    texts = [entry.value for entry in model.proto.metadata_props if entry.key == KEY]
    if not texts:
        return {}
    return {
        value: np.exp2((np.array([LETTERS.index(letter) for letter in text]) - ONE) / STEPS)
        for value, text in json.loads(texts[0]).items()
    }


def _letters(factors: Array) -> npt.NDArray[np.intp]:
    exponents = np.rint(STEPS * np.log2(factors)).astype(np.intp) + ONE
    return np.clip(exponents, 0, len(LETTERS) - 1)
