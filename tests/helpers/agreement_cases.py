"""Shipped models in each precision, and how far two engines agree on what they find with one."""

import edgeseg
from edgeseg_bench.datasets import open_dataset
from edgeseg_bench.evaluation import compare_results, comparisons, dataset_kind, detect
from edgeseg_bench.pictures import calibration_pictures

NUM_PICTURES, NUM_CALIBRATION = 8, 8


def write_shipped_bundle(folder, name, precision):
    """Export a small model with its shipped weights; int8 is calibrated on training pictures."""
    model = edgeseg.create_model(name, weights="shapes")
    has_int8 = precision in {"int8", "mixed"}
    calibration = calibration_pictures("shapes", NUM_CALIBRATION, model) if has_int8 else None
    return edgeseg.export_bundle(model, folder, precision=precision, calibration=calibration)


def agreement_of(reference, candidate):
    """Return the agreement of two predictors of one model on pictures of the shapes data."""
    manifest = reference.manifest
    samples = list(open_dataset("shapes", limit=NUM_PICTURES, kind=dataset_kind(manifest)))
    return compare_results(
        comparisons(manifest),
        *([r for s in samples for r in detect(one, s)] for one in (reference, candidate)),
        images=[
            {"id": s.image_id, "height": s.image.shape[0], "width": s.image.shape[1]}
            for s in samples
        ],
    )
