"""Rows in batches. N members, B rows."""

import collections
import concurrent.futures
import functools
import math
import operator
import os

import numpy as np
from keras import ops, tree

EXACT_SIZES = 8  # numbers of rows that get a program of their own before programs are shared


_LOOK = operator.attrgetter("__class__", "dtype", "shape")


def at_a_glance(x):
    """What tells two inputs of one program: something hashable, and the list of their parts, in a few microseconds.

    (None, None) for what is nested deeper than a list, tuple or dict of arrays.
    """
    kind = type(x)
    if kind is np.ndarray:
        return _LOOK(x), [x]
    if kind not in (list, tuple, dict):
        return None, None
    flat = list(x.values()) if kind is dict else x
    try:
        return (kind, tuple(x) if kind is dict else None, *map(_LOOK, flat)), flat
    except AttributeError:
        return None, None


def check_at_least_one(**numbers):
    """Raise where what is given is no int, or one below 1."""
    for name, number in numbers.items():
        if number is None:
            continue
        if not isinstance(number, (int, np.integer)) or isinstance(number, bool):
            shape = getattr(number, "shape", None)
            what = f"a {type(number).__name__}{'' if shape is None else f' of shape {tuple(shape)}'}"
            raise ValueError(f"{name} must be an int, a number and not the data. Received: {name}={what}.")
        if number < 1:
            raise ValueError(f"{name} must be at least 1. Received: {name}={number}.")


class Arrays:
    """What a model is called with: its arrays, and all that tells which program serves them.

    Attributes:
        flat: List of NumPy arrays.
        form: Hashable: the nesting, and each array's dtype and shape without the rows.
        rows: B.
    """

    def __init__(self, x):
        self.flat = []
        self.form = _take_apart(x, self.flat)
        self.rows = self.flat[0].shape[0] if self.flat and self.flat[0].ndim else -1
        if any(a.ndim == 0 or a.shape[0] != self.rows for a in self.flat) or self.rows < 0:
            shapes = ", ".join(str(a.shape) for a in self.flat)
            raise ValueError(f"Inputs must have a batch axis first, of equally many rows. Received: shapes {shapes}.")

    def batches(self, size, fill):
        """Lists of arrays of `size` rows; the last is shorter, or with `fill` filled up with copies of its first row."""
        for start in range(0, max(self.rows, 1), size):
            batch = [a[start : start + size] for a in self.flat] if self.rows > size else self.flat
            missing = start + size - self.rows if fill else 0
            yield [_filled(a, missing) for a in batch] if missing > 0 else batch


def beside(function, items, threads, settings=lambda: None):
    """`function` of each item, in order; so many are computed at once, one of them by the caller, and one more is held.

    A caller that only waits is in the way: the thread that it wakes last may wait for its core, while another idles.

    The caller computes all where `settings()` is not in its thread what it is in others; None is the same in all.
    """
    pool = _pool(threads - 1, os.getpid()) if threads > 1 else None
    if pool is None or _differs(settings(), settings, pool):
        yield from map(function, items)
        return
    begun = collections.deque()
    for item in items:
        task = functools.partial(function, item)
        begun.append((pool.submit(task), task))
        if len(begun) > threads:
            yield _first_result(begun)
    while begun:
        yield _first_result(begun)


def _differs(own, settings, pool):
    """Whether the caller's own settings are not those of a thread of the pool."""
    return own is not None and own != pool.submit(settings).result()


def _first_result(begun):
    """That of the first of pairs of a future and a task; until it is there, the caller runs tasks that none has begun."""
    while not begun[0][0].done():
        left = next((number for number, (future, _) in enumerate(begun) if future.cancel()), None)
        if left is None:
            break
        begun[left] = _done(begun[left][1]()), None
    return begun.popleft()[0].result()


def _done(result):
    future = concurrent.futures.Future()
    future.set_result(result)
    return future


@functools.cache
def _pool(threads, process):
    """Threads that stay, with the memory that they are given: new ones ask the system for it at each call."""
    return concurrent.futures.ThreadPoolExecutor(threads, "predicting")


def _take_apart(x, flat):
    """The form of a structure of arrays, which are added to the list `flat`."""
    if type(x) is np.ndarray:
        flat.append(x)
        return x.dtype, x.shape[1:]
    if isinstance(x, dict):
        return dict, tuple(x), *(_take_apart(value, flat) for value in x.values())
    if isinstance(x, (list, tuple)):
        return type(x), (), *(_take_apart(value, flat) for value in x)
    return None if x is None else _take_apart(_array(x), flat)


def put_together(form, leaves):
    """The structure of a form, with the leaves of an iterator in the places of its arrays."""
    if form is None:
        return None
    kind, keys, *parts = form
    if not isinstance(kind, type):
        return next(leaves)
    parts = [put_together(part, leaves) for part in parts]
    if kind is dict:
        return dict(zip(keys, parts))
    return kind(*parts) if hasattr(kind, "_fields") else kind(parts)


def _array(x):
    if ops.is_tensor(x):
        return ops.convert_to_numpy(x)
    if isinstance(x, np.ndarray):
        return np.asarray(x)
    raise ValueError(f"A predictor takes NumPy arrays, nested as the model takes them. Received: a {type(x).__name__}.")


def check_inputs(model, arrays):
    """Say what is wrong with inputs, before a backend does in its own words. A dict may hold more than is used."""
    wanted, x = getattr(model, "inputs", None), put_together(arrays.form, iter(arrays.flat))
    if not wanted or isinstance(x, dict):
        return
    if len(given := tree.flatten(x)) != len(wanted):
        names = ", ".join(f"'{expected.name}'" for expected in wanted)
        raise ValueError(f"The model takes {len(wanted)} inputs, {names}. Received: {len(given)}.")
    for array, expected in zip(given, wanted):
        if array is not None and not _fits(array, expected):
            raise ValueError(
                f"Input '{expected.name}' must have shape {tuple(expected.shape)}. Received: shape {tuple(array.shape)}."
            )


def _fits(array, expected):
    """Other ranks are left to Keras, which adds or takes away an axis of size 1."""
    pairs = zip(array.shape[1:], expected.shape[1:])
    return array.ndim != len(expected.shape) or all(want in (None, got) for got, want in pairs)


def _filled(a, missing):
    fill = np.repeat(a[:1], missing, axis=0) if len(a) else np.zeros((missing, *a.shape[1:]), a.dtype)
    return np.concatenate([a, fill])


def with_other_last_row(batch):
    """The same arrays with another last row, which is unlike: numbers are large and of the other sign, ids are 0 or 1."""
    return [np.concatenate([a[:-1], _unlike(a[-1:])]) for a in batch]


def _unlike(row):
    other = (row == 0).astype(row.dtype)
    return other if row.dtype.kind in "biu" else (-1000 * row - 1000 * other).astype(row.dtype)


def batch_size_for(rows, limit, known):
    """How many rows a batch has, at most `limit`, where a program serves one size and takes time to make.

    The fewest batches, of equal size. The first few sizes that are asked for get programs of their own, because they repeat.
    Later a program that is there, for one of the sizes `known`, does as well if it computes at most a quarter more rows than
    there are, in at most twice as many batches; and a new one is made with some room, so that it serves others too.
    """
    count = max(math.ceil(rows / limit), 1)
    even = max(math.ceil(rows / count), 1)
    fitting = [size for size in known if even <= 2 * size <= 2 * limit and size * math.ceil(rows / size) <= 1.25 * rows]
    if even in known or (len(known) < EXACT_SIZES and (count == 1 or not fitting)):
        return even
    return min(fitting, key=lambda size: (size * math.ceil(rows / size), -size), default=min(_with_room(even), limit))


def _with_room(rows):
    """The next number of rows with at most three significant binary digits, at most a quarter more: 17 -> 20, 49 -> 56."""
    step = 2 ** max(rows.bit_length() - 3, 0)
    return step * math.ceil(rows / step)
