"""On JAX members of an MLP end bit-equal to the same trained alone: weights, over 30 steps, by every Keras optimizer."""

import os
import pathlib
import platform
import subprocess
import sys

import keras
import numpy as np
import pytest
import training_cases as cases
from keras import layers as k

from keras_multiweight.testing import assert_trains_alike

EVERY = list(cases.OPTIMIZERS)
APART = "--xla_cpu_max_isa=AVX"  # instructions among which none multiplies and adds with one rounding
IS_X86 = platform.machine() in ("x86_64", "AMD64")
SOME = ["mlp 1 Adam-use_ema", "mlp 5 Nadam-gradient_accumulation_steps", "mlp 1 SGD-clipnorm", "plain 1 SGD-clipnorm"]
SLOW = pytest.mark.slow

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax" or not IS_X86, reason="elsewhere products of members have roundings of their own"
)


def trainings(build, steps, names):
    return [f"{build} {steps} {name}" for name in names]


@pytest.mark.parametrize(
    ("flags", "trained"),
    [
        ("", SOME),
        pytest.param("", trainings("mlp", 1, EVERY), marks=SLOW),
        pytest.param("", trainings("mlp", 5, EVERY), marks=SLOW),
        pytest.param("", trainings("plain", 1, EVERY), marks=SLOW),
        pytest.param(APART, trainings("mlp", 1, EVERY), marks=SLOW),
    ],
    ids=["some", "steps", "programs", "plain", "apart"],
)
def test_an_mlp_trains_bit_equal(flags, trained):
    """In a process of its own: XLA reads its flags once, and those for quick compiling change roundings."""
    run = [sys.executable, "-W", "ignore", __file__, *trained]
    done = subprocess.run(
        run, env={**os.environ, "XLA_FLAGS": flags}, cwd=pathlib.Path(__file__).parent, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def plain():
    """Without regularisers and constraints."""
    x = keras.Input((4,))
    return keras.Model(x, k.Dense(3, activation="softmax")(k.Dense(6, activation="tanh")(x)))


def difference(training):
    """The largest of a weight, relative to the largest movement; a training is "model steps optimizer"."""
    build, steps, name = training.split()
    keras.backend.clear_session()
    loss = "sparse_categorical_crossentropy"
    arguments = {"optimizer": cases.OPTIMIZERS[name](), "loss": loss, "steps_per_execution": int(steps)}
    build, fit = {"mlp": cases.mlp, "plain": plain}[build], {"batch_size": 8, "epochs": 2}
    return assert_trains_alike(build, cases.data(cases.mlp, 120), arguments, fit, tolerance=np.inf, roundings=0)


if __name__ == "__main__":
    found = {training: difference(training) for training in sys.argv[1:]}
    unequal = {training: value for training, value in found.items() if value != 0.0}
    sys.exit(f"Not bit-equal: {unequal}" if unequal or not found else 0)
