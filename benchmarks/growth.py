"""How does the cost of packed prediction grow, with the members and with the rows?

    KERAS_BACKEND=tensorflow python benchmarks/growth.py

Milliseconds of a call of `multi.predictor()` and of the loop of compiled calls, and the seconds that the first call of a
predictor takes longer than the second, to trace and compile: the median of fifteen predictors.
"""

import argparse
import json
import logging
import pathlib
import statistics
import time

from predict import header
from predict_models import mlp
from predict_peers import loop
from predict_speed import data
from timing import interleaved

import keras_multiweight as kmw

MEMBERS = (1, 3, 10, 30, 100, 300, 1000)
ROWS = (1, 8, 64, 512, 4096)
MOST_IN_A_LOOP = 100  # members: more take minutes to compile


def measure(num_members, rows, repeats):
    """What one size costs, as a dict of plain values."""
    multi = kmw.replicate(lambda: mlp(64), num_members, seed=0) if num_members > 1 else kmw.pack([mlp(64)])
    multi.set_weights([w + 0.01 for w in multi.get_weights()])  # biases of zero that XLA knows it would leave out
    measured = []
    for b in rows:
        x = data(multi, b)
        first, ask = statistics.median(compiling(multi, x) for _ in range(15)), multi.predictor()
        calls = {"predictor": lambda ask=ask, x=x: ask(x)}
        if num_members <= MOST_IN_A_LOOP:
            each = loop(multi.unpack(), x)
            calls["loop of compiled calls"] = lambda each=each, x=x: each(x)
        measured.append({"members": num_members, "rows": b, "seconds": interleaved(calls, repeats), "first": first})
        print(measured[-1], flush=True)
    return measured


def compiling(multi, x):
    """By how many seconds the first call of a predictor takes longer than the second."""
    ask, times = multi.predictor(), [time.perf_counter()]
    for _ in range(2):
        ask(x)
        times.append(time.perf_counter())
    return (times[1] - times[0]) - (times[2] - times[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path, help="write what was measured to this file too")
    options = parser.parse_args()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    measure(2, (1,), 1)  # what a backend does once
    lines = []
    for num_members in MEMBERS:
        lines += measure(num_members, ROWS if num_members == 100 else (1, 32), options.repeats)
        if options.json:
            options.json.write_text(json.dumps({"measured": header("several", options.repeats), "lines": lines}, indent=1))


if __name__ == "__main__":
    main()
