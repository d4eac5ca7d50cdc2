"""Parameter names of the checkpoints of CornerNet, CornerNet-Lite and CenterNet (key-point triplets)."""

from __future__ import annotations

from edgeseg.models.checkpoint import KeyTable, Rule
from edgeseg.models.layers import hourglass_keys
from edgeseg.models.layers.hourglass_keys import FIRE_PARTS, convolution, inside

KEY_POINTS = {"tl": "top_left", "br": "bottom_right", "ct": "center"}
"""The originals' name of a kind of key point -> ours."""
_HEADS = {"heats": "heatmap", "tags": "embedding", "regrs": "offset"}
_LITE_HEADS = {"heats": "heatmap", "tags": "embedding", "offs": "offset"}
_POOL = (
    *convolution("p1_conv1", "first"),
    *convolution("p2_conv1", "second"),
    *convolution("look_conv1", "first_look"),
    *convolution("look_conv2", "second_look"),
    ("P1_look_conv.{p}", "first_joined.{p}"),
    ("P2_look_conv.{p}", "second_joined.{p}"),
    ("p_conv1.{p}", "merge.conv.{p}"),
    ("p_bn1.{p}", "merge.norm.{p}"),
    ("conv1.{p}", "shortcut.conv.{p}"),
    ("bn1.{p}", "shortcut.norm.{p}"),
    *convolution("conv2", "output"),
)
# The pools and heads of the first of two hourglasses serve in training only.
_TRAINING = (r"^(tl|br|ct)_(cnvs|modules|heats|tags|regrs|offs)\.0\.",)


def _results(last: int, *, pools: str, heads: dict[str, str]) -> tuple[Rule, ...]:
    """Return the names of the pools and heads behind hourglass number ``last``."""
    return tuple(
        rule
        for theirs, ours in KEY_POINTS.items()
        for rule in (
            *inside(f"{theirs}_{pools}.{last}", f"pools.{ours}", _POOL),
            *(
                (
                    f"{theirs}_{their_head}.{last}.{layer}.{{p}}",
                    f"heads.{ours}_{our_head}.{name}.{{p}}",
                )
                for their_head, our_head in heads.items()
                for layer, name in (("0.conv", "conv.conv"), ("1", "predictor"))
            ),
        )
    )


_LITE_RESULTS = _results(1, pools="modules", heads=_LITE_HEADS)

HOURGLASS104 = KeyTable(
    (*hourglass_keys.trunk(), *_results(1, pools="cnvs", heads=_HEADS)),
    # CornerNet-Lite trained CornerNet, too.
    aliases=(*hourglass_keys.trunk(hourglasses="hgs", prefix="hg."), *_LITE_RESULTS),
    ignored=_TRAINING,
)
HOURGLASS52 = KeyTable((*hourglass_keys.trunk(), *_results(0, pools="cnvs", heads=_HEADS)))
SQUEEZE = KeyTable(
    (
        *hourglass_keys.trunk(
            order=4, stem_blocks=2, parts=FIRE_PARTS, hourglasses="hgs", prefix="hg."
        ),
        *_LITE_RESULTS,
    ),
    ignored=_TRAINING,
)
