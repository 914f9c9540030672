"""On JAX members of an MLP end bit-equal to the same trained alone, wherever products are rounded before they are added."""

import os
import pathlib
import platform
import subprocess
import sys

import keras
import numpy as np
import pytest
import training_cases as cases

from keras_multiweight.testing import assert_trains_alike

FUSED = ["Adam-clipnorm", "Nadam-use_ema"]  # by default XLA fuses other products of theirs with sums
APART = "--xla_cpu_max_isa=AVX"  # instructions among which none multiplies and adds with one rounding
IS_X86 = platform.machine() in ("x86_64", "AMD64")

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax" or not IS_X86, reason="elsewhere products of members have roundings of their own"
)


@pytest.mark.parametrize(
    ("flags", "names"),
    [("", ["Adam-default"]), (APART, FUSED), pytest.param(APART, list(cases.OPTIMIZERS), marks=pytest.mark.slow)],
    ids=["default", "apart", "all-apart"],
)
def test_an_mlp_trains_bit_equal(flags, names):
    """Over 30 steps, in a process of its own: XLA reads its flags once, and those for quick compiling change roundings."""
    run = [sys.executable, "-W", "ignore", __file__, *names]
    done = subprocess.run(
        run, env={**os.environ, "XLA_FLAGS": flags}, cwd=pathlib.Path(__file__).parent, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def difference(name):
    """The largest of a weight, relative to the largest movement."""
    keras.backend.clear_session()
    arguments = {"optimizer": cases.OPTIMIZERS[name](), "loss": "sparse_categorical_crossentropy"}
    fit = {"batch_size": 8, "epochs": 2}
    return assert_trains_alike(cases.mlp, cases.data(cases.mlp, 120), arguments, fit, tolerance=np.inf, roundings=0)


if __name__ == "__main__":
    found = {name: difference(name) for name in sys.argv[1:]}
    unequal = {name: value for name, value in found.items() if value != 0.0}
    sys.exit(f"Not bit-equal: {unequal}" if unequal or not found else 0)
