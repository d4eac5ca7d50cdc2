"""Runs graphs so that what is float16 in them is rounded to float16, which ONNX Runtime avoids on a processor.

It computes such nodes in float32 and drops the casts between them. An Identity stands in their way, as long as nothing
is optimised.
"""

import onnx
from onnx import TensorProto, helper

from edgeseg_export.sessions import GraphBackend
from edgeseg_runtime.predictor import Predictor
from edgeseg_runtime.tasks import create_task


def rounding_session(model):
    """Return a session in which every float16 value of the graph is one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = _with_stops(model).to_bytes()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def rounding_predictor(model, manifest):
    """Return a graph behind the runtime's own pre- and post-processing, its float16 values rounded."""
    backend = GraphBackend({"main": model}, manifest, open_session=rounding_session)
    return Predictor(manifest, create_task(manifest), backend)


def _with_stops(model):
    copy = model.copy()
    halves = {
        info.name
        for info in copy.graph.value_info
        if info.type.tensor_type.elem_type == TensorProto.FLOAT16
    }
    nodes = []
    for node in copy.graph.node:
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in halves:
                node.output[index] = f"{name}/exact"
                nodes.append(helper.make_node("Identity", [f"{name}/exact"], [name]))
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(copied)
    return copy
