"""What does taking stopped members out of the computation gain?

    KERAS_BACKEND=tensorflow python benchmarks/stopping.py

N networks 30 -> 64 -> 64 -> 1 train for some epochs at most, batch size 32; of every eight one trains to the end, and the
others stop after 2 to 8 epochs. Seconds of `fit`, those of compiling included, with stopped members taken out and left in.
"""

import argparse
import time

import numpy as np
from fit import data, network
from predict import header

import keras_multiweight as kmw
from keras_multiweight.training import running


def seconds(num_members, epochs, rows, worth):
    """Of one `fit`, after which the losses of all members are returned, too."""
    running.WORTH = worth
    multi = kmw.replicate(lambda: network(64), num_members, seed=0)
    multi.compile("adam", "binary_crossentropy", steps_per_execution="auto")
    patience = [epochs + 1 if i % 8 == 7 else 2 + i % 8 for i in range(num_members)]
    stopping = kmw.callbacks.MemberEarlyStopping("loss", patience=patience, min_delta=1e9, restore_best_weights=False)
    start = time.perf_counter()
    multi.fit(*data(rows), batch_size=32, epochs=epochs, shuffle=False, verbose=0, callbacks=[stopping])
    return time.perf_counter() - start, multi.member_history["loss"][-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--rows", type=int, default=10_000)
    options = parser.parse_args()
    print(header(options.members, 1))
    worth = running.WORTH
    left_in, expected = seconds(options.members, options.epochs, options.rows, np.inf)
    taken_out, received = seconds(options.members, options.epochs, options.rows, worth)
    print(f"left in {left_in:.1f} s, taken out {taken_out:.1f} s: {left_in / taken_out:.2f}x")
    print(f"largest difference of a last loss: {np.abs(expected - received).max() / np.abs(expected).max():.1e}")


if __name__ == "__main__":
    main()
