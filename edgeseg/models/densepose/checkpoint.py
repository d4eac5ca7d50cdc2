"""Parameter names of detectron2's DensePose checkpoints."""

from __future__ import annotations

from edgeseg.models.key_table import KeyTable
from edgeseg.models.maskrcnn.checkpoint import DETECTRON2
from edgeseg.models.maskrcnn.checkpoint import OWN as OWN

_PREDICTOR = "roi_heads.densepose_predictor"
_HEAD = "roi_heads.densepose_head"
DENSEPOSE = KeyTable(
    (
        *DETECTRON2.rules,
        ("roi_heads.decoder.p{i+2}.{k*2}.{p}", "decoder.levels.{i}.{k}.conv.{p}"),
        ("roi_heads.decoder.predictor.{p}", "decoder.predictor.{p}"),
        # In the DeepLab head the convolutions are followed by a normalisation.
        (f"{_HEAD}.body_conv_fcn{{i+1}}.norm.{{p}}", "surface_head.convs.{i}.norm.{p}"),
        (f"{_HEAD}.body_conv_fcn{{i+1}}.{{p}}", "surface_head.convs.{i}.conv.{p}"),
        (f"{_HEAD}.ASPP.convs.4.1.{{p}}", "surface_head.aspp.pooled.conv.{p}"),
        (f"{_HEAD}.ASPP.convs.4.2.{{p}}", "surface_head.aspp.pooled.norm.{p}"),
        (f"{_HEAD}.ASPP.convs.{{i}}.0.{{p}}", "surface_head.aspp.branches.{i}.conv.{p}"),
        (f"{_HEAD}.ASPP.convs.{{i}}.1.{{p}}", "surface_head.aspp.branches.{i}.norm.{p}"),
        (f"{_HEAD}.ASPP.project.0.{{p}}", "surface_head.aspp.project.{p}"),
        (f"{_PREDICTOR}.ann_index_lowres.{{p}}", "surface_predictor.coarse.{p}"),
        (f"{_PREDICTOR}.index_uv_lowres.{{p}}", "surface_predictor.fine.{p}"),
        *(
            (f"{_PREDICTOR}.{name}_lowres.{{p}}", f"surface_predictor.{name}.{{p}}")
            for name in ("u", "v", "sigma_2", "kappa_u", "kappa_v")
        ),
        (
            f"{_PREDICTOR}.fine_segm_confidence_lowres.{{p}}",
            "surface_predictor.fine_confidence.{p}",
        ),
        (
            f"{_PREDICTOR}.coarse_segm_confidence_lowres.{{p}}",
            "surface_predictor.coarse_confidence.{p}",
        ),
    ),
    ignored=DETECTRON2.ignored,
)
