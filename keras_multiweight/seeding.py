"""Random numbers of a seed for a while."""

import contextlib
import random

import keras
import numpy as np


def seed_sequence(seed):
    """NumPy's seeds of a `seed` argument: an int of at least 0, several of them, or None for new ones each time."""
    try:
        return np.random.SeedSequence(seed)
    except (TypeError, ValueError):
        raise ValueError(f"seed must be an int of at least 0, or None. Received: seed={seed!r}.") from None


@contextlib.contextmanager
def undisturbed():
    """A scope after which Python's and NumPy's own random numbers go on as they were."""
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextlib.contextmanager
def seeded(seed):
    """A scope after `keras.utils.set_random_seed(seed)`; Python's and NumPy's own random numbers go on as they were."""
    with undisturbed():
        keras.utils.set_random_seed(seed)
        yield
