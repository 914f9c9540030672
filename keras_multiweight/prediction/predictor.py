"""Predictor: a model as a function from NumPy arrays to NumPy arrays. B rows."""

import math
import threading

import numpy as np
from keras import ops, tree

from keras_multiweight.prediction import lowerings
from keras_multiweight.prediction.batches import (
    Arrays,
    batch_size_for,
    check_batch_size,
    check_inputs,
    default_batch_size,
    with_other_last_row,
)


class Predictor:
    """A model as a function from NumPy arrays to NumPy arrays, with the least overhead that the backend allows.

    It compiles a program when a number of rows first comes, and reads the weights at each call: it is right after training,
    and after weights were set. Several threads may call it. The arrays that it gives are the caller's own.

    Compiled programs serve one number of rows: rows are cut into batches of one size, and the last batch is filled up with
    copies of a row. Where the answer for a row depends on the other rows of its batch (this is tried when it first
    matters), batches are cut as `predict` of Keras cuts them, without filling.

    Compiled by XLA, on TensorFlow and JAX, ids out of the range of an `Embedding` are no error.

    Args:
        model: A `MultiModel`, or another Keras model.
        batch_size: int. All batches are filled up to this many rows: one program serves all calls. Left out, a few rows run
            as they are, and many are cut so that what a layer gives stays in the caches of a CPU.
        jit_compile: bool or "auto", as for `keras.Model.compile`: XLA on TensorFlow, `jax.jit` on JAX, `torch.compile` on
            torch. "auto" leaves it out on torch, where it takes seconds, and for convolutions on TensorFlow, where it gives
            nothing. A model that does not compile runs without, and `repr` says why.
        patient: bool. Run the first batches as the model stands, where that is faster than making a program for them.

    Example:

    ```python
    ask = multi.predictor()
    ask(x)  # what multi.predict(x) gives
    ```
    """

    def __init__(self, model, batch_size=None, jit_compile="auto", patient=False):
        check_batch_size(batch_size)
        self.model = model
        self.batch_size = batch_size
        self.jit_compile = jit_compile
        self._limit = batch_size or default_batch_size(model, lowerings.batch_numbers())
        self._ways = lowerings.ways(model, jit_compile)
        self._patience = lowerings.patience() if patient else 0  # batches
        self._failed = {}  # way -> error
        self._programs = {}  # (way, form of the inputs, rows or None) -> (run, ModelCall)
        self._rows_meet = {}  # form of the inputs -> whether a row's answer depends on other rows
        self._lock = threading.RLock()  # while a program is made

    def __call__(self, x):
        """The model's outputs for an array, or a structure of arrays, `(B, ...)`, as the model takes them.

        Raises:
            ValueError: Something else than arrays, or arrays of other shapes than the model takes.
        """
        return self.run(x)

    def run(self, x, limit=None):
        """The same, in batches of at most `limit` rows; None leaves the choice to the predictor."""
        arrays, limit = Arrays(x), limit or self._limit
        self._patience -= math.ceil(arrays.rows / limit)
        way = self._ways[0 if self._patience <= 0 else -1]
        if not way.fixed_rows:
            return self._in_batches(way, arrays, limit, fill=False)
        size = self._size(way, arrays, limit)
        as_keras = arrays.rows == size or (size == limit and arrays.rows % size == 0 < arrays.rows)
        if not as_keras and self._do_rows_meet(way, arrays, size):
            return self._in_batches(way, arrays, limit, fill=False)
        return self._in_batches(way, arrays, size, fill=True)

    @property
    def num_programs(self):
        """How many programs were made: one for each structure of inputs, and on most backends for each number of rows."""
        return len(self._programs)

    def __repr__(self):
        failed = "".join(f", no {way.name} because of {_first_line(error)}" for way, error in self._failed.items())
        runs = f"{self._ways[0].name}, {self.num_programs} programs{failed}"
        return f"<Predictor of '{self.model.name}', batch_size={self.batch_size}: {runs}>"

    # ---- batches ----

    def _size(self, way, arrays, limit):
        """How many rows a batch has, for a way with a fixed number of rows."""
        if self.batch_size:
            return self.batch_size
        known = {rows for name, form, rows in list(self._programs) if (name, form) == (way.name, arrays.form)}
        return batch_size_for(arrays.rows, limit, known)

    def _do_rows_meet(self, way, arrays, size):
        """Whether other answers change where the last row of a batch does; then batches must be as Keras cuts them."""
        if arrays.form not in self._rows_meet and size > 1:
            batch = next(arrays.batches(size, fill=True))
            _, answers = self._answers(way, arrays, batch)
            if way not in self._ways:  # it failed, and another way took its place
                return True
            _, others = self._answers(way, arrays, with_other_last_row(batch))
            self._rows_meet[arrays.form] = any(_differ(*pair, rows=size) for pair in zip(answers, others))
        return self._rows_meet.get(arrays.form, False)

    def _in_batches(self, way, arrays, size, fill):
        parts = []
        for batch in arrays.batches(size, fill):
            call, answers = self._answers(way, arrays, batch)
            parts.append(answers)
        if len(parts) > 1:
            parts = [list(map(np.concatenate, zip(*parts)))]
        answers = [y[: arrays.rows] for y in parts[0]] if fill else parts[0]
        return answers[0] if call.structure == 0 else tree.pack_sequence_as(call.structure, answers)

    # ---- programs ----

    def _answers(self, way, arrays, batch):
        """The `ModelCall` that answered, and its outputs as NumPy arrays."""
        program = self._programs.get(_key(way, arrays, batch))
        if program is None:
            with self._lock:
                call, answers = self._first_answers(way, arrays, batch)
        else:
            run, call = program
            answers = run(batch)
        return call, list(map(ops.convert_to_numpy, answers))

    def _first_answers(self, way, arrays, batch):
        """Make a program, by the first way that makes one that runs: some fail only when they run."""
        check_inputs(self.model, arrays)
        failed = {}
        for other in self._ways[self._ways.index(way) if way in self._ways else 0 :]:
            call = lowerings.ModelCall(self.model, arrays.form)
            try:
                run = other.build(call, batch)
                answers = run(batch)
            except Exception as error:
                failed[other] = error
                continue
            self._programs[_key(other, arrays, batch)] = run, call
            self._failed.update(failed)
            self._ways = [way for way in self._ways if way not in failed]
            return call, answers
        raise failed[other]


def _key(way, arrays, batch):
    return way.name, arrays.form, len(batch[0]) if way.fixed_rows else None


def _differ(answers, others, rows):
    """Whether two answers differ, but for the last row; also where an answer has no row for each row of the inputs."""
    return len(answers) != rows or answers[:-1].tobytes() != others[:-1].tobytes()


def _first_line(error):
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
