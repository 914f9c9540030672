"""Graphs of about a thousand layers one after another, which Keras walks by recursion."""

import contextlib
import sys

LIMIT = 4_000  # frames; Python's own limit of 1,000 is just above the deepest of `keras.applications`


@contextlib.contextmanager
def deep_graphs():
    """Let functions call each other more deeply: a packed graph is a few layers longer than that of one member."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, LIMIT))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
