"""How many rows and members should be computed at once? For `cached` and `batch_numbers` of `prediction.lowerings`.

    KERAS_BACKEND=torch python benchmarks/batch_sizes.py

Milliseconds for all rows, by the rows of a batch of all members, and by the members of a chunk of all rows; in brackets
millions of numbers that the widest layer gives at once.
"""

import numpy as np
from predict_models import cnn, mlp
from predict_speed import data
from timing import interleaved

import keras_multiweight as kmw

CASES = {  # name -> (build, N, numbers that the widest layer gives for a row, rows)
    "MLP, N=10, width 64": (mlp, 10, 64, 1024),
    "MLP, N=50, width 64": (mlp, 50, 64, 1024),
    "MLP, N=50, width 256": (lambda: mlp(256), 50, 256, 1024),
    "MLP, N=1,000, width 16": (lambda: mlp(16), 1000, 16, 1024),
    "digits CNN, N=50": (cnn, 50, 8 * 8 * 32, 256),
}


def main():
    for name, (build, num_members, widest, rows) in CASES.items():
        multi = kmw.replicate(build, num_members, seed=0)
        x = data(multi, rows)
        sizes = [int(size) for size in 2 ** np.arange(3, 14) if size <= rows and size * widest * num_members < 3e7]
        asks = {size: multi.predictor(size, member_chunk=num_members) for size in sizes}
        show(f"{name}, rows at once of {rows}", asks, widest * num_members, x)
        sizes = [size for size in (1, 2, 5, 10, 25, 50, 200, 1000) if size <= num_members and size * widest * rows < 3e7]
        asks = {size: multi.predictor(rows, member_chunk=size) for size in sizes}
        show(f"{name}, members at once, {rows} rows", asks, widest * rows, x)


def show(title, asks, numbers, x):
    seconds = interleaved({size: lambda ask=ask: ask(x) for size, ask in asks.items()}, 5)
    cells = (f"{size} ({size * numbers / 1e6:.2g}): {1e3 * s:.1f}" for size, s in seconds.items())
    print(f"{title}, ms: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
