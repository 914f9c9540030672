"""How many rows should be computed at once? The figures behind `prediction.lowerings.batch_numbers`.

    KERAS_BACKEND=torch python benchmarks/batch_sizes.py

Milliseconds for all rows, by the rows of a batch; in brackets millions of numbers that the widest layer gives for a batch.
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
        sizes = [size for size in 2 ** np.arange(3, 14) if size <= rows and size * widest * num_members < 3e7]
        asks = {int(size): multi.predictor(int(size)) for size in sizes}
        seconds = interleaved({size: lambda ask=ask, x=x: ask(x) for size, ask in asks.items()}, 5)
        cells = (f"{size} ({size * widest * num_members / 1e6:.2g}): {1e3 * s:.1f}" for size, s in seconds.items())
        print(f"{name}, {rows} rows, ms: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
