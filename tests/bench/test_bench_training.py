"""Training of the small models: a run that was interrupted ends as one that was not."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from training.loop import Defaults, train

NAME = "landmarks_regression_tiny"
OPTIONS = {"steps": 5, "batch-size": 2, "lr": 1e-3, "warm-up-steps": 2, "seed": 3, "workers": 0}


def noise(manifest, number):
    """Return one picture of noise; which one depends on the number alone."""
    size = manifest.preprocess.height, manifest.preprocess.width, 3
    return {"image": np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)}


def distance(model, batch):
    """Return how far the points are from where chance wants them."""
    points = model(batch["image"])["points"]
    return {"distance": (points / 80 - torch.rand_like(points)).square().mean()}


class InterruptedAt:
    """The same losses, until somebody presses Ctrl-C."""

    def __init__(self, step):
        self.steps_left = step

    def __call__(self, model, batch):
        if not self.steps_left:
            raise KeyboardInterrupt
        self.steps_left -= 1
        return distance(model, batch)


def run(folder, losses=distance, **changes):
    """Train for a few steps."""
    options = {**OPTIONS, "checkpoint-every": 2, "out": folder, **changes}
    arguments = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    defaults = Defaults(steps=1, batch_size=1, lr=1.0)
    train(NAME, sample=noise, losses=losses, defaults=defaults, arguments=arguments)


def checkpoint(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


@pytest.mark.parametrize("step", [1, 2, 3, 4], ids="step{}".format)
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, step):
    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", InterruptedAt(step))
    assert not (tmp_path / "parts" / f"{NAME}.safetensors").exists()
    run(tmp_path / "parts")
    whole, parts = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    for part in ("model", "optimizer"):
        torch.testing.assert_close(parts[part], whole[part], rtol=0, atol=0)
    assert [entry["step"] for entry in parts["log"]] == [2, 4, 5]
    weights = [load_file(tmp_path / name / f"{NAME}.safetensors") for name in ("whole", "parts")]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_a_run_changes_the_weights_and_depends_on_its_seed(tmp_path):
    run(tmp_path / "one", steps=1)
    run(tmp_path / "two", steps=2)
    run(tmp_path / "other", steps=2, seed=4)
    one, two, other = (
        torch.cat(
            [value.flatten().float() for value in checkpoint(tmp_path / name)["model"].values()]
        )
        for name in ("one", "two", "other")
    )
    assert not torch.equal(one, two)
    assert not torch.equal(two, other)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("seed", 4, "seed 3 found, expected 4"),
        ("batch-size", 1, "batch_size 2 found, expected 1"),
        ("steps", 6, "steps 5 found, expected 6"),
        ("lr", 1e-2, "lr 0.001 found, expected 0.01"),
        ("warm-up-steps", 3, "warm_up_steps 2 found, expected 3"),
        ("weight-decay", 0.5, "weight_decay 0.02 found, expected 0.5"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path, option, value, message):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, InterruptedAt(2))
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=rf"is of another run: {message}\. Give the options of"):
        run(tmp_path, **{option: value})
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
