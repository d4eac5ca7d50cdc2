"""Records dev_squeeze: what CornerNet-Lite's own CornerNet-Squeeze finds in a picture.

    git clone https://github.com/princeton-vl/CornerNet-Lite
    git -C CornerNet-Lite checkout 6a54505d830a9d6afe26e99f0864b5d06d0bbbaf
    pip install torch==2.14.1 numpy opencv-python-headless cython setuptools tqdm
    python tests/golden/cornernet/record_squeeze.py CornerNet-Lite

Network, decoding, preprocessing and soft-NMS are the original's files, run as they are but for three things that need
a GPU or an old library: `.cuda()` does nothing; the four pooling functions of compiled C++ are PyTorch's cumulative
maximum (a maximum is exact, however it is found); and of nms.pyx only `soft_nms` is compiled, since the rest names
NumPy types that are gone. Weights and picture are made by ../fill.py; the model runs twice and must give the same.
"""

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import cv2
import numpy as np
import torch

HERE = Path(__file__).resolve().parent
COMMIT = "6a54505d830a9d6afe26e99f0864b5d06d0bbbaf"
SEED = 313
IMAGE = {"seed": 232, "height": 210, "width": 250}
GAINS = [
    [r"hgs\..*\.bn2\.weight", 0.4],
    [r"pre\.0\.conv\.weight", 3],
    [r"p_bn1\.weight", 0.3],
    [r"_offs\.1\.1\.weight", 0.3],
    # Random heads put all corners of a kind into one class: these choose the same one for both.
    [r"tl_heats\.1\.0\.conv\.weight", -1],
    [r"tl_heats\.1\.0\.conv\.bias", 10],
    [r"tl_heats\.1\.1\.weight", 0.35],
    [r"br_heats\.1\.0\.conv\.weight", -1],
    [r"br_heats\.1\.0\.conv\.bias", -10],
    [r"br_heats\.1\.1\.weight", -0.35],
    [r"_heats\.1\.1\.bias", 0],
    [r"_tags\.1\.1\.weight", 0.7],
]
SAMPLES = 4096
MEANINGS = {
    "input": "network input [1,3,H,W], BGR, /255, minus mean, divided by std; black (0) around before that",
    "pre": "stem output (stride 8), NCHW",
    "cnv": "output of the convolution after the last hourglass, NCHW",
    "tl_cnv": "top-left pooling module output, NCHW",
    "br_cnv": "bottom-right pooling module output, NCHW",
    "tl_heat": "top-left corner heat map logits before sigmoid [1, C, H/8, W/8]",
    "br_heat": "bottom-right corner heat map logits before sigmoid [1, C, H/8, W/8]",
    "tl_tag": "top-left corner associative embedding",
    "br_tag": "bottom-right corner associative embedding",
    "tl_regr": "top-left corner sub-cell offset (x, y)",
    "br_regr": "bottom-right corner sub-cell offset (x, y)",
    "decoded_0": "decoded corner pairs with score > -1, descending score: [n, x1,y1,x2,y2, score, "
    "tl score, br score, class], output-map cells",
    "candidates": "[n, x1,y1,x2,y2, score, tl score, br score, class]: the same in original-image "
    "pixels, clipped, just before soft-NMS (grouped by class)",
    "final": "[n, x1,y1,x2,y2, score, class (0-based)] after soft-NMS and the max_per_image cut, "
    "original-image pixels; sorted here by descending score",
}


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkout", type=Path, help="of CornerNet-Lite")
    arguments = parser.parse_args()
    fill = load_fill()
    original = load_original(arguments.checkout)
    model = original.model()
    state = [
        [f"module.{key}", list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in model.state_dict().items()
    ]
    weights = fill.fill_all(state, seed=SEED, gains=GAINS)
    model.load_state_dict(
        {key.removeprefix("module."): torch.from_numpy(np.asarray(w)) for key, w in weights.items()}
    )
    model.eval()
    picture = fill.sample_image(IMAGE["seed"], IMAGE["height"], IMAGE["width"])[..., ::-1]
    first, second = (run(original, model, np.ascontiguousarray(picture)) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    write(first, state, original.configs)


def load_fill():
    """The maker of weights and pictures."""
    spec = importlib.util.spec_from_file_location("fill", HERE.parent / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    return fill


def load_original(checkout):
    """The original's model, its inference and its settings."""
    found = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert found == COMMIT, f"{checkout} is at {found}, expected {COMMIT}"
    for name, axis, from_end in (
        ("top_pool", 2, True),
        ("bottom_pool", 2, False),
        ("left_pool", 3, True),
        ("right_pool", 3, False),
    ):
        sys.modules[name] = types.SimpleNamespace(forward=cumulative(axis, from_end))
    sys.modules.setdefault("pkg_resources", types.ModuleType("pkg_resources"))  # not used here
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.cuda.FloatTensor = torch.FloatTensor
    sys.path.insert(0, str(checkout))
    sys.modules["core.external.nms"] = compile_soft_nms(checkout)
    original = types.SimpleNamespace(
        model=importlib.import_module("core.models.CornerNet_Squeeze").model,
        inference=importlib.import_module("core.test.cornernet"),
        coco=importlib.import_module("core.dbs.coco").COCO,
    )
    settings = json.loads((checkout / "configs" / "CornerNet_Squeeze.json").read_text("utf-8"))
    original.db = original.coco(settings["db"])
    original.configs = original.db.configs
    return original


def cumulative(axis, from_end):
    """A pooling function: the running maximum along an axis."""

    def forward(x):
        x = x.flip(axis) if from_end else x
        y = x.cummax(axis).values
        return [y.flip(axis) if from_end else y]

    return forward


def compile_soft_nms(checkout):
    """A module with the original's `soft_nms`, and a `soft_nms_merge` that must not be called."""
    text = (checkout / "core" / "external" / "nms.pyx").read_text("utf-8")
    head = text[: text.index("def nms(")]
    body = text[text.index("def soft_nms(") : text.index("def soft_nms_merge(")]
    folder = Path(tempfile.mkdtemp())
    (folder / "lite_nms.pyx").write_text(head + body, "utf-8")
    (folder / "setup.py").write_text(
        "import numpy\n"
        "from Cython.Build import cythonize\n"
        "from setuptools import Extension, setup\n"
        "extension = Extension('lite_nms', ['lite_nms.pyx'], include_dirs=[numpy.get_include()])\n"
        "setup(ext_modules=cythonize([extension], language_level=2))\n",
        "utf-8",
    )
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    sys.path.insert(0, str(folder))
    module = importlib.import_module("lite_nms")
    return types.SimpleNamespace(soft_nms=module.soft_nms, soft_nms_merge=None)


def run(original, model, picture):
    """Everything that is recorded, of one picture (H, W, 3) BGR."""
    taps = {}

    def tap(name):
        return lambda _module, _inputs, output: taps.__setitem__(name, output.detach().numpy().copy())

    modules = {
        "pre": model.hg.pre,
        "cnv": model.hg.cnvs[-1],
        "tl_cnv": model.tl_modules[-1],
        "br_cnv": model.br_modules[-1],
        "tl_heat": model.tl_heats[-1],
        "br_heat": model.br_heats[-1],
        "tl_tag": model.tl_tags[-1],
        "br_tag": model.br_tags[-1],
        "tl_regr": model.tl_offs[-1],
        "br_regr": model.br_offs[-1],
    }
    handles = [module.register_forward_hook(tap(name)) for name, module in modules.items()]
    candidates = []

    class Network:
        """What the original calls its network factory."""

        def test(self, xs, **options):
            taps["input"] = xs[0].numpy().copy()
            with torch.no_grad():
                found = model(*xs, **options)
            taps["decoded_0"] = found[0][0].numpy().copy()
            return found

    soft_nms = original.inference.soft_nms

    def record_and_suppress(boxes, **options):
        candidates.append(boxes.copy())
        return soft_nms(boxes, **options)

    original.inference.soft_nms = record_and_suppress
    try:
        found = original.inference.cornernet_inference(original.db, Network(), picture)
    finally:
        original.inference.soft_nms = soft_nms
        for handle in handles:
            handle.remove()
    decoded = taps["decoded_0"]
    taps["decoded_0"] = decoded[decoded[:, 4] > -1]
    taps["candidates"] = np.concatenate(
        [np.insert(rows, 7, label, axis=1) for label, rows in enumerate(candidates)]
    )
    final = np.concatenate(
        [np.insert(found[label + 1], 5, label, axis=1) for label in range(80)]
    )
    taps["final"] = final[np.argsort(-final[:, 4], kind="stable")]
    return taps


def write(taps, state, configs):
    """Write the case; large arrays are sampled."""
    folder = HERE / "dev_squeeze"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    arrays, outputs = {}, {}
    for name, values in taps.items():
        sampled = values.size > SAMPLES
        outputs[name] = {
            "shape": list(values.shape),
            "dtype": str(values.dtype),
            "meaning": MEANINGS[name],
            "sampled": sampled,
        }
        if sampled:
            index = np.sort(rng.choice(values.size, SAMPLES, replace=False))
            arrays[f"{name}__index"] = index.astype(np.int32)
            arrays[f"{name}__value"] = values.ravel()[index]
            arrays[f"{name}__stats"] = np.array(
                [values.mean(), values.std(), values.min(), values.max()]
            )
        else:
            arrays[name] = values
    np.savez_compressed(folder / "outputs.npz", **arrays)
    settings = ("top_k", "ae_threshold", "nms_kernel", "num_dets", "nms_algorithm", "merge_bbox")
    settings += ("max_per_image", "test_scales", "test_flipped")
    case = {
        "system": "cornernet",
        "source": {
            "repo": "https://github.com/princeton-vl/CornerNet-Lite",
            "commit": COMMIT,
            "entry": "core/test/cornernet.py",
            "versions": f"torch {torch.__version__}, numpy {np.__version__}, cv2 {cv2.__version__}",
        },
        "variant": "CornerNet-Squeeze",
        "config": {key: configs[key] for key in settings},
        "checkpoint": {"key": None, "prefix": "module.", "state_json_has_prefix": True},
        "seed": SEED,
        "gains": GAINS,
        "image": IMAGE,
        "outputs": outputs,
    }
    (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n", "utf-8")
    (folder / "state.json").write_text(json.dumps(state) + "\n", "utf-8")
    print({name: entry["shape"] for name, entry in outputs.items()})


if __name__ == "__main__":
    main()
