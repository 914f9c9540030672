"""Many minibatches in one compiled program, inside Keras's own `fit`. B rows a minibatch, K minibatches a program.

`fit` is given the numbers of the rows in the place of the data, in blocks of `K * B`: Keras shuffles and cuts them as it
would the data. A block is one call of a program that takes the rows from the data, held on the device, B at a time.
"""

import copy
import math

import keras
import numpy as np
from keras import ops, tree

from keras_multiweight.arrays import are_arrays
from keras_multiweight.training import programs

WORK = 1e9  # multiplications of one program that "auto" aims at, about a tenth of a second on a CPU
MOST_STEPS = 1000


class Feed:
    """Data on the device, and the training or test function that Keras calls on the numbers of its rows.

    Args:
        model: The compiled model.
        kind: "train" or "test".
        data: Tuple `(x, y, sample_weight)` of structures of arrays.
        batch_size: int, B.
        steps: int, K.
        finish: As for `RowDataset`.
    """

    def __init__(self, model, kind, data, batch_size, steps, finish=None):
        self.num_rows = _common_rows(data)
        self.batch_size = batch_size
        self.num_batches = math.ceil(self.num_rows / batch_size)
        self.steps = min(steps, self.num_batches)
        self.rows = np.arange(self.num_rows, dtype="int32")
        self.block = self.steps * batch_size
        self._arrays = tree.map_structure(_on_device, _without_trailing_none(data))
        self._program = {"kind": kind, "finish": finish}
        self._run = model.step_program(**self._program)

    def of(self, model):
        """The feed of the same data to another model."""
        other = copy.copy(self)
        other._run = model.step_program(**self._program)
        return other

    def fit_arguments(self, shuffle):
        """What Keras's `fit` is given in the place of the data."""
        return programs.fed_rows(self.rows, self.block, shuffle)

    def __call__(self, *args):
        """`(source)`, or on JAX `(state, source)`, as Keras calls its training functions; returns as they do."""
        *state, source = args
        state = state[0] if state else None
        rows = programs.next_rows(source)
        full = len(rows) // self.batch_size
        if full:
            block = np.zeros((self.block, *rows.shape[1:]), rows.dtype)  # of one shape, so that it is compiled once
            block[: full * self.batch_size] = rows[: full * self.batch_size]
            block = block.reshape(self.steps, self.batch_size, *rows.shape[1:])
            logs, state = self._run(state, self._arrays, block, full)
        if len(rows) % self.batch_size:
            logs, state = self._run(state, self._arrays, rows[None, full * self.batch_size :], 1)
        return (logs, state) if len(args) > 1 else logs


def _common_rows(data):
    """How many rows all arrays of `(x, y, sample_weight)` have."""
    names = ("inputs", "targets", "sample weights")
    rows = {name: sorted({len(a) for a in tree.flatten(part) if a is not None}) for name, part in zip(names, data)}
    if len(set().union(*rows.values())) > 1:
        found = ", ".join(f"{' and '.join(map(str, counts))} {name}" for name, counts in rows.items() if counts)
        raise ValueError(
            f"There must be a target, and a sample weight if any, for each row of the inputs. Received: {found}."
        )
    return next(count for counts in rows.values() for count in counts)


class RowDataset(keras.utils.PyDataset):
    """Batches that are rows of arrays: `fit` takes them from one copy on the device, many batches in one program.

    Attributes:
        arrays: Tuple `(x, y)` or `(x, y, sample_weight)` of structures of NumPy arrays.
        rows: The numbers of the rows of the present epoch, in order: `(rows,)`, or `(rows, N)` for rows of each member.
        batch_size: int, B.
        finish: Function `finish(batch, numpy)` that is called on each batch `(x, y, ...)` once its rows are taken, with
            `numpy` or `keras.ops`; or None.
    """

    finish = None

    @property
    def num_batches(self):
        return math.ceil(len(self.rows) / self.batch_size)

    def __getitem__(self, number):
        rows = self.rows[number * self.batch_size : (number + 1) * self.batch_size]
        batch = tree.map_structure(lambda array: array[rows], self.arrays)
        return self.finish(batch, np) if self.finish else batch


class RowFeed(Feed):
    """A `Feed` whose rows a `RowDataset` says, new ones at each epoch."""

    def __init__(self, model, dataset, steps):
        super().__init__(model, "train", dataset.arrays, dataset.batch_size, min(steps, dataset.num_batches), dataset.finish)
        self.num_batches = dataset.num_batches
        self._dataset = dataset

    def fit_arguments(self, shuffle):
        return {"x": _Blocks(self._dataset, self.block), "shuffle": False}  # the order is the data set's


class _Blocks(keras.utils.PyDataset):
    """The numbers of the rows of a `RowDataset`, a block at a time."""

    def __init__(self, dataset, block):
        super().__init__()
        self.dataset, self.block = dataset, block

    @property
    def num_batches(self):
        return math.ceil(len(self.dataset.rows) / self.block)

    def __getitem__(self, number):
        return (self.dataset.rows[number * self.block : (number + 1) * self.block].astype("int32"),)

    def on_epoch_begin(self):
        self.dataset.on_epoch_begin()

    def on_epoch_end(self):
        self.dataset.on_epoch_end()


class StepCallbacks(keras.callbacks.CallbackList):
    """Callbacks that see the numbers of minibatches where Keras counts blocks of them, as `steps_per_execution` does."""

    def __init__(self, callbacks, train, test=None, **kwargs):
        super().__init__(callbacks, **kwargs)
        self._train, self._test = train, test

    def on_train_batch_begin(self, batch, logs=None):
        super().on_train_batch_begin(_first(self._train, batch), logs)

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(_last(self._train, batch), logs)

    def on_test_batch_begin(self, batch, logs=None):
        super().on_test_batch_begin(_first(self._test, batch), logs)

    def on_test_batch_end(self, batch, logs=None):
        super().on_test_batch_end(_last(self._test, batch), logs)


def _first(feed, block):
    return block * feed.steps if feed else block


def _last(feed, block):
    return min((block + 1) * feed.steps, feed.num_batches) - 1 if feed else block


def automatic_steps(model, batch_size, callbacks):
    """K such that a program does enough work to hide the cost of calling it; 1 where a callback must see every batch."""
    if any(_sees_batches(c) and not inside_step(c, model) for c in tree.flatten(callbacks or [])):
        return 1
    work = 6 * batch_size * sum(math.prod(v.shape) for v in model.trainable_variables)
    return int(min(max(WORK // max(work, 1), 1), MOST_STEPS))


def needs_every_step(callbacks, model):
    """Whether a callback sees, or is part of, every training step."""
    return any(_sees_batches(c) or inside_step(c, model) for c in callbacks)


def inside_step(callback, model):
    """Whether a callback computes in the compiled training step of a model, and need not see its batches."""
    asks = getattr(callback, "is_inside_step", None)
    return asks is not None and asks(model)


def members_data(callbacks, model, x, y, sample_weight, batch_size):
    """The dataset that a callback makes of the data that `fit` is given, or None."""
    makers = (getattr(callback, "members_data", None) for callback in tree.flatten(callbacks))
    found = (make(model, x, y, sample_weight, batch_size) for make in makers if make)
    return next((data for data in found if data is not None), None)


def _sees_batches(callback):
    if "epoch" in (getattr(callback, "save_freq", None), getattr(callback, "update_freq", None)):
        return False
    hooks = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
    base = keras.callbacks.Callback
    return any(getattr(getattr(callback, hook), "__func__", None) is not getattr(base, hook) for hook in hooks)


def can_be_fed(data, validation_data):
    """Whether the rows of training data `(x, y, sample_weight)`, and of validation data, can be taken on the device."""
    if isinstance(data[0], RowDataset):
        return data[1] is None and data[2] is None and (validation_data is None or are_arrays(validation_data))
    return are_arrays((data, validation_data))


def check_has_rows(x):
    """Raise where inputs are arrays without a row, of which Keras gives other numbers or errors on each backend."""
    if are_arrays(x) and next(a.shape[:1] for a in tree.flatten(x) if a is not None) == (0,):
        raise ValueError("Training and evaluation need at least one row. Received: inputs of 0 rows.")


def first_batch(x, y, sample_weight):
    """The first batch of anything that `fit` takes, as `(x, y, sample_weight)`, and `x` still whole."""
    if are_arrays(x):
        return (x, y, sample_weight), x
    if isinstance(x, keras.utils.PyDataset):
        first = x[0]
    else:
        source = iter(x)
        first = next(source)
        x = _resumed(first, source) if source is x else x
    return keras.utils.unpack_x_y_sample_weight(first), x


def row_spec(x):
    return keras.KerasTensor((2, *x.shape[1:]), keras.backend.standardize_dtype(x.dtype))


def two_rows(x):
    return None if x is None else ops.zeros((2, *x.shape[1:]), _dtype(x))


def _dtype(x):
    """As the backend has it: JAX has numbers of 32 bits, and warns of others."""
    return keras.backend.standardize_dtype(ops.convert_to_tensor(x[:0]).dtype)


def _resumed(first, source):
    yield first
    yield from source


def split(data, fraction):
    """Training and validation parts: the last rows are for validation, as Keras has it."""
    rows = len(tree.flatten(data)[0])
    at = math.floor(rows * (1.0 - fraction))
    if not 0 < at < rows:
        raise ValueError(f"validation_split must leave rows on both sides. Received: {fraction} of {rows} rows.")
    parts = (slice(None, at), slice(at, None))
    return [tree.map_structure(lambda a, part=part: None if a is None else a[part], data) for part in parts]


def _on_device(array):
    if array is None:
        return None
    is_float = "float" in keras.backend.standardize_dtype(array.dtype)
    return ops.convert_to_tensor(array, dtype=keras.config.floatx() if is_float else None)


def _without_trailing_none(data):
    """`(x, y, None)` -> `(x, y)`"""
    *rest, last = data
    return tuple(data) if last is not None else _without_trailing_none(rest) if len(rest) > 1 else tuple(rest)
