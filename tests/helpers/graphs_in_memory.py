"""What the exporter does with the graphs of a model, for a model that has one."""

from edgeseg_export.calibration import calibrate
from edgeseg_export.sessions import graphs_predictor


def calibrate_one(graph, manifest, pictures, values, *, unclipped=(), **options):
    """Return value -> magnitude; see `calibrate`."""
    found = calibrate(
        {"main": graph},
        manifest,
        pictures,
        {"main": values},
        unclipped={"main": unclipped},
        **options,
    )
    return found["main"]


def graph_predictor(graph, manifest):
    """Return a graph behind the runtime's own pre- and post-processing."""
    return graphs_predictor({"main": graph}, manifest)
