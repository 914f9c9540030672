"""Is a slow function optimised faster when several evaluations are out at once, and what does it look like on the way?

Workers evaluate in parallel; whenever one is done its result is told, and a new point is asked for. Nothing waits for a
batch to be complete. Progress is a callback, the plot is written in the end.
"""

import concurrent.futures
import pathlib
import sys
import time

import numpy as np

from keras_multiweight.surrogate import SurrogateOptimizer

A = np.array([[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]])
P = 1e-4 * np.array([[1312, 1696, 5569, 124, 8283, 5886], [2329, 4135, 8307, 3736, 1004, 9991],
                     [2348, 1451, 3522, 2883, 3047, 6650], [4047, 8828, 8732, 5743, 1091, 381]])  # fmt: skip
MINIMUM = -3.32236801141551


def hartmann(x, seconds=0.02):
    """A function of six numbers with two basins, that takes its time."""
    time.sleep(seconds)
    return -float(np.exp(-np.sum(A * (x - P) ** 2, axis=1)) @ np.array([1.0, 1.2, 3.0, 3.2]))


def show_progress(optimizer):
    print(f"\r{len(optimizer.pool):4} evaluations, best {optimizer.best.y:.5f}", end="", file=sys.stderr)


def main(budget=300, workers=8, plot=None, progress=show_progress):
    """The distance of the best value from the minimum."""
    optimizer = SurrogateOptimizer([(0, 1)] * 6, batch_size=workers, seed=0)
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(workers) as executor:
        best = optimizer.minimize(hartmann, budget, executor=executor, callback=progress)
    print(f"\n{best.y - MINIMUM:.1e} from the minimum after {budget} evaluations and {time.perf_counter() - start:.1f} s")
    if plot:
        optimizer.plot_convergence(optimum=MINIMUM).figure.savefig(pathlib.Path(plot))
    return best.y - MINIMUM


if __name__ == "__main__":
    main(plot=sys.argv[1] if len(sys.argv) > 1 else None)
