"""What CPU time does one `ask` take, as evaluations and members grow, and against N Keras models in a list?

python benchmarks/optimise_cost.py
"""

import time

import keras
import numpy as np

from keras_multiweight.surrogate import SurrogateOptimizer
from keras_multiweight.surrogate.ensemble import default_network
from keras_multiweight.surrogate.search import TRAIN_STEPS

DIM, ROWS, BATCH = 10, 80, 10


def seconds_of_ask(num_members, told, repeats=7):
    """The median seconds of `ask(10)` with so many evaluations told, compiled before."""
    optimizer = SurrogateOptimizer([(0, 1)] * DIM, num_members=num_members)
    rng, seconds = np.random.default_rng(0), []
    x = rng.random((told - BATCH * (repeats + 2), DIM))
    optimizer.tell(x, np.sum((x - 0.3) ** 2, axis=1))
    for _ in range(repeats + 2):
        start = time.process_time()
        x = optimizer.ask(BATCH)
        seconds.append(time.process_time() - start)
        optimizer.tell(x, np.sum((x - 0.3) ** 2, axis=1))
    return float(np.median(seconds[2:]))


def seconds_of_towers(num_members):
    """A fit of as many steps for each of N Keras models, on the rows of its window, by `train_on_batch`."""
    models = [default_network(DIM)() for _ in range(num_members)]
    rng = np.random.default_rng(0)
    x, y = rng.random((ROWS, DIM)).astype("float32"), rng.random((ROWS, 1)).astype("float32")
    for model in models:
        model.compile("adam", "mse")
        model.train_on_batch(x, y)
    start = time.process_time()
    for model in models:
        for _ in range(TRAIN_STEPS):
            model.train_on_batch(x, y)
    return time.process_time() - start


def main():
    print(f"{keras.backend.backend()}: CPU milliseconds of ask({BATCH}), {DIM} dimensions, {TRAIN_STEPS} training steps")
    for num_members in (1, 8, 32):
        times = [1e3 * seconds_of_ask(num_members, told) for told in (400, 2000)]
        print(f"N = {num_members:2}: {times[0]:7.1f} at 400 told, {times[1]:7.1f} at 2,000")
    for num_members in (1, 8, 32):
        print(f"{num_members} Keras models in a list, training alone: {1e3 * seconds_of_towers(num_members):.0f}")


if __name__ == "__main__":
    main()
