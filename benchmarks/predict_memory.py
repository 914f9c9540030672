"""How much memory does it take to predict many members on many rows?

    KERAS_BACKEND=jax python benchmarks/predict_memory.py

Each line is measured in a process of its own: the most that it ever held, in all, with Python, Keras, the backend and the
packed model, whose members' weights are drawn in it. "before" is what it had held when it began to predict; "estimate" is
what `multi.estimate(rows)` said before; "average" is `multi.average().predict(x)`, which never holds all answers.
"""

import argparse
import multiprocessing
import resource
import time

MEMBERS, ROWS, FEATURES, WIDTH = 1000, 100_000, 64, 256  # 98,945 parameters a member
COLUMNS = ("what", "limit, MB", "before, MB", "peak, MB", "estimate, MB", "members x rows at once", "seconds")


def build():
    from keras import Input, Sequential
    from keras import layers as k

    hidden = [k.Dense(WIDTH, activation="relu") for _ in range(2)]
    return Sequential([Input((FEATURES,)), *hidden, k.Dense(64, activation="relu"), k.Dense(1)])


def measure(what, limit, num_members, rows, queue):
    """The cells of one line."""
    import numpy as np

    import keras_multiweight as kmw

    multi = kmw.replicate(build, num_members, seed=0)
    model = multi.average() if what == "average" else multi
    x = np.random.default_rng(0).standard_normal((rows, FEATURES), "float32")
    estimate = model.estimate(rows, memory_limit=limit)
    before = peak()
    start = time.perf_counter()
    y = model.predict(x, memory_limit=limit)
    seconds = time.perf_counter() - start
    assert y.shape == ((rows, 1) if what == "average" else (rows, num_members, 1)) and np.isfinite(y).all()
    tile = f"{estimate.member_chunk} x {estimate.batch_size:,}"
    queue.put((before, peak(), estimate.total, tile, seconds))


def peak():
    """The most bytes that this process has held."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_a_process(*args):
    """What `measure` gives, in a fresh process: the peak of a process never falls."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measure, args=(*args, queue))
    process.start()
    while process.is_alive() and queue.empty():
        time.sleep(0.1)
    if queue.empty():
        raise RuntimeError(f"The process that measures ended with code {process.exitcode}.")
    cells = queue.get()
    process.join()
    return cells


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=MEMBERS)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--what", nargs="+", choices=("predict", "average"), default=["predict", "average"])
    parser.add_argument("--limits", type=int, nargs="+", default=[0, 64], help="MiB; 0 for the default")
    options = parser.parse_args()
    print(f"{options.members:,} members on {options.rows:,} rows.\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for what in options.what:
        for limit in (2**20 * mib or None for mib in options.limits):
            before, most, total, tile, seconds = in_a_process(what, limit, options.members, options.rows)
            sizes = " | ".join(f"{size / 1e6:,.0f}" for size in (before, most, total))
            print(
                f"| {what} | {f'{limit / 1e6:.0f}' if limit else 'default'} | {sizes} | {tile} | {seconds:.1f} |", flush=True
            )


if __name__ == "__main__":
    main()
