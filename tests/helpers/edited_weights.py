"""Bundles whose graphs compute with other weights: one export serves many cases."""

import dataclasses
import hashlib
import re

import onnx
from onnx import numpy_helper

from edgeseg_runtime.bundle.manifest import Manifest


def write_edited(folder, out, pattern, edit):
    """Write a bundle anew with the weights whose names the pattern finds changed by `edit(array)`, in place.

    A bundle whose graphs share a file of weights is not taken apart.
    """
    manifest = Manifest.load(folder)
    artifacts, num_edited = {}, 0
    out.mkdir()
    for key, artifact in manifest.artifacts.items():
        model = onnx.load(folder / artifact.file)
        for tensor in model.graph.initializer:
            if re.search(pattern, tensor.name):
                array = numpy_helper.to_array(tensor).copy()
                edit(array)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
                num_edited += 1
        content = model.SerializeToString()
        (out / artifact.file).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        artifacts[key] = dataclasses.replace(artifact, sha256=digest, size_bytes=len(content))
    assert num_edited, f"no weight is called {pattern}"
    dataclasses.replace(manifest, artifacts=artifacts).save(out)
    return out
