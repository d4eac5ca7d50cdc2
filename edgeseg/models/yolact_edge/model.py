"""YolactEdge (Liu et al., 2021, arXiv 2012.12259): a model of pictures, and one of videos in two graphs.

Shape suffixes: B pictures, C channels, H W of a map.
"""

from __future__ import annotations

from torch import Tensor

from edgeseg.models.reference import check_image_size
from edgeseg.models.yolact.model import BACKBONE_LEVELS, Yolact
from edgeseg.models.yolact_edge.config import YolactEdgeConfig
from edgeseg.models.yolact_edge.flow import PartialFeatures

KEY = "key"
STEP = "step"
CARRIED = ("merged4", "merged5", "reduced")
"""Outputs of the graph of a key frame that the frames behind it read."""
FIRST_MAPS = 2
"""C2 and C3: what the backbone computes in a frame between key frames."""


class YolactEdge(Yolact):
    """YOLACT that computes only the first half of its backbone in most frames of a video.

    The graph "key" is YOLACT, and gives what the frames behind it need: M4 and M5, the laterals of C4
    and C5 with the coarser ones added, and the lateral of C3, reduced for the flow network. The graph
    "step" moves M4 and M5 to where things are now. A model of pictures has neither, but "main".
    """

    config: YolactEdgeConfig

    def __init__(self, name: str, config: YolactEdgeConfig) -> None:
        super().__init__(name, config)
        self.partial = (
            PartialFeatures(
                config.fpn_channels,
                config.flow_channels,
                config.flow_widths,
                use_spa=config.use_spa,
            )
            if config.is_video
            else None
        )

    def graph_stages(self, graph: str, **inputs: Tensor) -> dict[str, Tensor]:
        """Return outputs and intermediate stages of "main", "key" or "step", see :class:`YolactEdge`."""
        return self.step_stages(**inputs) if graph == STEP else self.stages(**inputs)

    def stages(self, image: Tensor, image_fraction: Tensor | None = None) -> dict[str, Tensor]:
        """Return the stages of a picture or a key frame; arguments and results are those of YOLACT.

        A model of videos gives merged4 (B, C, H/16, W/16), merged5 (B, C, H/32, W/32) and reduced
        (B, flow_channels, H/8, W/8), too.
        """
        check_image_size(image, self.config.image_size)
        stages = {"input": self.normalize(image, None, image_fraction)}
        features = self.backbone(stages["input"])[-BACKBONE_LEVELS:]
        stages |= {f"c{level}": feature for level, feature in enumerate(features, 3)}
        laterals = self.fpn.laterals(features)
        merged = self.fpn.top_down(laterals)
        if self.partial is not None:
            stages |= {"merged4": merged[1], "merged5": merged[2]}
            stages["reduced"] = self.partial.reduce(laterals[0])
        return stages | self.pyramid_stages(merged)

    def step_stages(
        self,
        image: Tensor,
        key_merged4: Tensor,
        key_merged5: Tensor,
        key_reduced: Tensor,
        image_fraction: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the stages of a frame behind a key frame, whose outputs ``key_...`` are."""
        assert self.partial is not None
        check_image_size(image, self.config.image_size)
        stages = {"input": self.normalize(image, None, image_fraction)}
        stages["c3"] = self.backbone(stages["input"], FIRST_MAPS)[-1]
        lateral = self.fpn.laterals([stages["c3"]])[0]
        stages |= self.partial(lateral, [key_merged4, key_merged5], key_reduced)
        return stages | self.pyramid_stages([stages[f"merged{level}"] for level in (3, 4, 5)])
