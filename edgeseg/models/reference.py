"""What every reference model offers beside being a torch module."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from edgeseg.models.checkpoint import LoadedWeights
from edgeseg_runtime.graphs import MAIN


class ReferenceModel(nn.Module):
    """A model that names its stages, so that an export can be compared with it step by step.

    Attributes:
        name: key of ``edgeseg.models.MODELS``.
        config: the family's frozen configuration dataclass.
        outputs: names of the stages that are results.
        loaded_weights: which part of which checkpoint it was made with; None if its weights are random.
        score_threshold: what the score of every detection exceeds; empty rows have the score 0.
    """

    name: str
    config: Any
    outputs: tuple[str, ...]
    loaded_weights: LoadedWeights | None = None
    score_threshold: float = 0.0

    def graph_stages(self, graph: str, **inputs: Tensor) -> dict[str, Tensor]:
        """Return outputs and intermediate stages of one of the manifest's graphs, in the order of computation.

        A model of several graphs has its own; `stages` is then all graphs of a first frame in turn.

        Args:
            graph: its name in the model's manifest.
            **inputs: all that the manifest lists, wherever they come from.
        """
        assert graph == MAIN
        return self.stages(**inputs)

    @abstractmethod
    def stages(self, *inputs: Any, **options: Any) -> dict[str, Tensor]:
        """Return results and intermediate stages by name, in the order of computation.

        The inputs are those of the model's manifest, in its order.
        """

    def forward(self, *inputs: Tensor, **named: Tensor) -> dict[str, Tensor]:
        """Return the results by name; see the manifest for their shapes."""
        stages = self.stages(*inputs, **named)
        return {name: stages[name] for name in self.outputs}


def check_image_size(image_BHW3: Tensor, image_size: tuple[int, int]) -> None:
    """Do nothing if the pictures have the size that a model was built for.

    Raises:
        ValueError: they are not (B, H, W, 3) of that height and width.
    """
    if tuple(image_BHW3.shape[1:]) != (*image_size, 3):
        height, width = image_size
        raise ValueError(
            f"image of shape {tuple(image_BHW3.shape)} found, expected (B, {height}, {width}, 3)"
        )
