"""The memory that predicting takes, measured in a process of its own: the peak of a process never falls."""

import os
import subprocess
import sys

import pytest

ROWS, MEMBERS, WIDTH = 20_000, 100, 1000  # all members at once would give 8 GB in a layer
LIMIT, COMPILER = 2**27, 2**28  # bytes for a batch, and for what a compiler takes

SCRIPT = f"""
import resource
import keras
import numpy as np
import keras_multiweight as kmw

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

layers = keras.layers
model = keras.Sequential([keras.Input((8,)), layers.Dense({WIDTH}, activation="relu"), layers.Dense(1)])
multi = kmw.replicate(model, {MEMBERS}, seed=0)
x = np.random.default_rng(0).standard_normal(({ROWS}, 8), "float32")
for predicting in (multi.average(), multi):
    predicting.predict(x[:1], memory_limit={LIMIT})
    before = peak()
    y = predicting.predict(x, memory_limit={LIMIT})
    print(peak() - before - y.nbytes)
"""


@pytest.mark.slow
def test_predicting_holds_the_answers_and_the_limit():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=dict(os.environ))
    assert run.returncode == 0, run.stderr
    average, all_members = map(int, run.stdout.split())
    assert average <= LIMIT + COMPILER
    assert all_members <= LIMIT + COMPILER
