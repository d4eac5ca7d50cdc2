"""What every reference model offers beside being a torch module."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from edgeseg.models.checkpoint import LoadedWeights
from edgeseg_runtime.bundle.graphs import MAIN


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What a model chooses one picture's detections from, greedily, and by which rule.

    Attributes:
        boxes: (N, 4) x1 y1 x2 y2 in network pixels.
        scores: (N,), each above ``score_threshold``.
        labels: (N,); boxes of different labels do not suppress each other.
        score_threshold: what the score of a candidate exceeds, the cut of a top-k included.
        iou_threshold: a box that overlaps a better kept one more than this is suppressed.
        pixel: what is added to every width and height before overlaps are taken.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    score_threshold: float
    iou_threshold: float
    pixel: float = 0.0


class ReferenceModel(nn.Module):
    """A model that names its stages, so that an export can be compared with it step by step.

    Attributes:
        name: what ``edgeseg.create_model`` made it by, a key of ``edgeseg.models.MODELS`` or
            MODULE:NAME.
        config: the family's frozen configuration dataclass.
        outputs: names of the stages that are results.
        loaded_weights: which part of which checkpoint it was made with; None if its weights are random.
        score_threshold: what the score of every detection exceeds; empty rows have the score 0.
        contender_threshold: what the score of every contender exceeds, of a panoptic head that has them.
        threshold_option: the option of the configuration that says so; None without one.
    """

    name: str
    config: Any
    outputs: tuple[str, ...]
    loaded_weights: LoadedWeights | None = None
    score_threshold: float = 0.0
    contender_threshold: float = 0.0
    threshold_option: ClassVar[str | None] = None

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

    def candidates(self, _stages: Mapping[str, Tensor]) -> Candidates | None:
        """Return what the first picture's detections were chosen from, or None if that is not known.

        With it, a comparison allows for ties that fall differently, see ``edgeseg_export.matching``.

        Args:
            _stages: what :meth:`stages` returned.
        """
        return None

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
