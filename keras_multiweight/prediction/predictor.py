"""Predictor: a model as a function from NumPy arrays to NumPy arrays. N members, B rows."""

import math
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from keras import tree

from keras_multiweight.prediction import lowerings
from keras_multiweight.prediction.answers import Answers
from keras_multiweight.prediction.batches import (
    Arrays,
    at_a_glance,
    batch_size_for,
    beside,
    check_at_least_one,
    check_inputs,
    with_other_last_row,
)
from keras_multiweight.prediction.calls import ChunkedCall, ModelCall
from keras_multiweight.prediction.chunks import Chunks
from keras_multiweight.prediction.sizes import MOST_ROWS, Sizes, memory_limit_in_bytes
from keras_multiweight.prediction.tuned import nearest


class Cut(NamedTuple):
    """How rows are cut into batches.

    Attributes:
        rows: int, how many a batch has, at most.
        fill: bool, whether the last one is filled up.
        members: int, how many members are computed at once.
        threads: int, how many batches are computed at once.
    """

    rows: int
    fill: bool
    members: int
    threads: int = 1


class Program(NamedTuple):
    """What runs a model: a function from a list of arrays to a list of arrays, and the call that it came from."""

    run: Callable
    call: object


class Predictor:
    """A model as a function from NumPy arrays to NumPy arrays, with the least overhead that the backend allows.

    It compiles a program when a number of rows first comes, and reads the weights at each call: it is right after training,
    and after weights were set. On JAX the program knows the weights of a small model; where they change, one that takes them
    as arguments is compiled, once. Several threads may call it; on JAX not while another one trains the model, whose weights
    `fit` then gives away, as with Keras's own `predict`. The arrays that it gives are the caller's own.

    Many rows are cut into batches, and the members of a `MultiModel` into chunks that a program computes one after another,
    so that what the layers give stays in the caches of a CPU and within the limit of memory. Where XLA would leave cores
    idle, each computes batches of its own.

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
        member_chunk: int. How many members are computed at once, at most; left out, as many as stay in the caches. Has no
            effect on models that are no `MultiModel`, or whose graph cannot be cut, as `repr` says.
        memory_limit: int, bytes that may be held for a batch beside the weights and all answers; by default half of what is
            free. It is met by smaller batches and chunks, as far as a rough estimate tells (`MultiModel.estimate`).
        most_rows: int. How many rows a batch has at most, where `batch_size` is left out.
        threads: int. How many batches are computed at once, at most as many as there are cores, where memory allows it and
            members are computed in chunks by a compiled program; left out, one, or with no `batch_size` as many as there are
            cores where that is faster. No effect on torch, which deals what it computes to the cores itself.
        tuned: List of what `MultiModel.tune` found: followed for about as many rows as it was found for.

    Example:

    ```python
    ask = multi.predictor()
    ask(x)  # what multi.predict(x) gives
    ```
    """

    def __init__(
        self,
        model,
        batch_size=None,
        jit_compile="auto",
        patient=False,
        member_chunk=None,
        memory_limit=None,
        most_rows=None,
        threads=None,
        tuned=(),
    ):
        check_at_least_one(batch_size=batch_size, member_chunk=member_chunk, most_rows=most_rows, threads=threads)
        self.model = model
        self.batch_size = batch_size
        self.jit_compile = jit_compile
        self.member_chunk = member_chunk
        self.threads = threads and min(threads, lowerings.cores())
        self.memory_limit = memory_limit_in_bytes(memory_limit)
        self._sizes = Sizes(model)
        self._limit = batch_size or self._sizes.rows(self.memory_limit, member_chunk, most_rows)
        self._most_dealt = most_rows or MOST_ROWS
        self._ways = lowerings.ways(model, jit_compile)
        self._patience = lowerings.patience() if patient else 0  # batches
        self._is_steady = not patient
        self._failed = {}  # the name of what was tried -> error
        self._chunks = {}  # members -> Chunks
        self._programs = {}  # (way, form of the inputs, rows or None, members) -> Program
        self._at_once = {}  # (inputs at a glance, limit) -> the Program that serves them in one call
        self._rows_meet = {}  # form of the inputs -> whether a row's answer depends on other rows
        self._lock = threading.RLock()  # while a program is made
        options = {"batch_size": batch_size, "patient": patient, "memory_limit": memory_limit}
        self._tuned = [(entry, Predictor(model, **entry.options(), **options)) for entry in tuned]

    def __call__(self, x, limit=None):
        """The model's outputs for an array, or a structure of arrays, `(B, ...)`, as the model takes them.

        Args:
            limit: int. How many rows a batch has at most in this call; None leaves the choice to the predictor.

        Raises:
            ValueError: Something else than arrays, or arrays of other shapes than the model takes; or the limit of memory
                is too small for one row of one member.
        """
        glance, flat = at_a_glance(x)
        program = self._at_once.get((glance, limit))
        if program is not None:
            return _nested(program.call.structure, program.run(flat))
        arrays = Arrays(x)
        answers, program = self._tuned_for(arrays.rows)._in_batches(arrays, limit)
        if program and all(type(a) is np.ndarray for a in flat or [None]):
            self._at_once[glance, limit] = program
        return answers

    def _tuned_for(self, rows):
        """The predictor that follows what was found for about as many rows, or this one."""
        entry = nearest([entry for entry, _ in self._tuned], rows) if self._tuned else None
        return next((ask for own, ask in self._tuned if own is entry), self)

    @property
    def compiles(self):
        """Whether programs are compiled: by XLA on TensorFlow, `jax.jit` on JAX, `torch.compile` on torch."""
        return self._ways[0].compiles

    @property
    def failed(self):
        """What failed, and something else took its place: a dict of errors."""
        return dict(self._failed)

    @property
    def num_programs(self):
        """How many programs were made: one for each structure of inputs, and on most backends for each number of rows."""
        return len(self._programs)

    def __repr__(self):
        failed = "".join(f", no {name} because of {_first_line(error)}" for name, error in self._failed.items())
        runs = f"{self._ways[0].name}, {self.num_programs} programs{failed}"
        return f"<Predictor of '{self.model.name}', batch_size={self.batch_size}: {runs}>"

    def estimate(self, rows):
        """What predicting so many rows takes, as an `Estimate`."""
        ask = self._tuned_for(rows)
        if ask is not self:
            return ask.estimate(rows)
        cut = self._best_cut(self._ways[0], rows)
        return self._sizes.estimate(rows, cut.rows, cut.members, cut.threads)

    # ---- batches ----

    def _in_batches(self, arrays, limit):
        """The answers, and the `Program` that can serve the next call with as many rows at once, or None."""
        most = limit or self._limit
        as_keras = Cut(most, False, self._members(min(arrays.rows, most)))
        self._patience -= math.ceil(arrays.rows / most) * self._sizes.chunks(as_keras.members)
        way = self._ways[0 if self._patience <= 0 else -1]
        cut = self._cut(way, arrays, as_keras, limit)
        answers = Answers(arrays.rows)
        for served, parts, rows in self._answered(way, arrays, cut):
            answers.add(parts, rows)
            program = served
        at_once = arrays.rows == rows and way is self._ways[0]
        return _nested(program.call.structure, answers.joined()), program if at_once else None

    def _answered(self, way, arrays, cut):
        """A program, its outputs and their number of rows, for each batch. A program is made before others run beside it."""

        def answer(batch):
            return *self._answers(way, arrays, batch, cut.members), len(batch[0])

        batches = arrays.batches(cut.rows, cut.fill)
        if cut.threads > 1 and (way.name, arrays.form, cut.rows, cut.members) not in self._programs:
            yield answer(next(batches))
        threads = cut.threads if self._sizes.num_members > 1 else 1
        yield from beside(answer, batches, threads, lowerings.settings_of_thread)

    def _cut(self, way, arrays, as_keras, limit):
        """How the rows are cut, at most as many in a batch: as Keras would where rows depend on those beside them."""
        if not way.fixed_rows:
            return as_keras
        most = as_keras.rows
        cut = self._best_cut(way, arrays.rows, limit, arrays.form)
        is_as_keras = arrays.rows == cut.rows or (cut.rows == most and arrays.rows % most == 0 < arrays.rows)
        return as_keras if not is_as_keras and self._do_rows_meet(way, arrays, cut) else cut

    def _best_cut(self, way, rows, limit=None, form=None):
        """The fastest, for a way with a fixed number of rows. Only chunks are dealt to the cores: they assign nothing."""
        threads, most = self.threads or lowerings.cores(), limit or self._limit
        dealt = None
        if way.compiles and (self.threads or not self.batch_size):
            dealt = self._sizes.dealt(rows, most, self.threads, self.memory_limit, limit or self._most_dealt)
        if dealt:
            dealt = self.batch_size or dealt
            members = self._sizes.members(dealt, self.member_chunk, self.memory_limit, threads)
            if members < self._sizes.num_members and self._sizes.fit(dealt, members, self.memory_limit, threads):
                return Cut(self._size(way, rows, dealt, form), True, members, threads)
        size = self._size(way, rows, most, form)
        return Cut(size, True, self._members(size))

    def _size(self, way, rows, most, form):
        """How many rows a batch has."""
        if self.batch_size:
            return self.batch_size
        known = {rows for name, own, rows, _ in list(self._programs) if (name, own) == (way.name, form)}
        return batch_size_for(rows, most, known)

    def _do_rows_meet(self, way, arrays, cut):
        """Whether other answers change where the last row of a batch does; then batches must be as Keras cuts them."""
        if arrays.form not in self._rows_meet and cut.rows > 1:
            batch = next(arrays.batches(cut.rows, fill=True))
            _, answers = self._answers(way, arrays, batch, cut.members)
            if way not in self._ways:  # it failed, and another way took its place
                return True
            _, others = self._answers(way, arrays, with_other_last_row(batch), cut.members)
            self._rows_meet[arrays.form] = any(_differ(*pair, rows=cut.rows) for pair in zip(answers, others))
        return self._rows_meet.get(arrays.form, False)

    # ---- programs ----

    def _members(self, rows):
        """How many members are computed at once."""
        members = self._sizes.members(rows, self.member_chunk, self.memory_limit)
        self._sizes.check(rows, members, self.memory_limit)
        return members

    def _answers(self, way, arrays, batch, members):
        """The `Program` that answered, and its outputs as NumPy arrays."""
        program = self._program(way, arrays, batch, members)
        if program is None:
            with self._lock:
                program = self._program(way, arrays, batch, members)  # another thread may have made it
                if program is None:
                    return self._first_answers(way, arrays, batch, min(members, self._sizes.num_members))
        return program, program.run(batch)

    def _program(self, way, arrays, batch, members):
        """The `Program` that there is for a batch, or None. A way that failed in an earlier batch is not gone again."""
        way = way if way in self._ways else self._ways[0]
        return self._programs.get(_key(way, arrays, batch, min(members, self._sizes.num_members)))

    def _first_answers(self, way, arrays, batch, members):
        """Make a program, by the first way that makes one that runs: some fail only when they run."""
        check_inputs(self.model, arrays)
        failed = {}
        for other in self._ways[self._ways.index(way) if way in self._ways else 0 :]:
            for at_once in dict.fromkeys((members, self._sizes.num_members)):
                try:
                    call = self._call(arrays, at_once)
                    run = other.build(call, batch)
                    answers = run(batch)
                except Exception as error:
                    failed[other.name, at_once] = error
                    continue
                program = Program(run, call)
                self._remember(failed, members)
                self._programs[_key(other, arrays, batch, min(members, self._sizes.num_members))] = program
                return program, answers
        raise failed[other.name, self._sizes.num_members]

    def _call(self, arrays, members):
        """The model as a function of tensors, so many members at once."""
        if members == self._sizes.num_members:
            return ModelCall(self.model, arrays.form, self._is_steady)
        if members not in self._chunks:
            self._chunks[members] = Chunks(self.model.packed(), members)
        return ChunkedCall(self.model, arrays.form, self._chunks[members], self._sizes.beside)

    def _remember(self, failed, members):
        """Not to try again what failed, where something else runs."""
        whole = self._sizes.num_members
        ways = {name for name, at_once in failed if at_once == whole}
        self._failed.update({name: error for (name, at_once), error in failed.items() if at_once == whole})
        self._ways = [way for way in self._ways if way.name not in ways]
        chunked = [error for (name, at_once), error in failed.items() if at_once != whole and name not in ways]
        if chunked:
            self._failed["chunks of members"] = chunked[0]
            self._sizes = Sizes(self.model, chunks=False)
            self._limit = self.batch_size or min(self._limit, self._sizes.rows(self.memory_limit))


def _key(way, arrays, batch, members):
    return way.name, arrays.form, len(batch[0]) if way.fixed_rows else None, members


def _nested(structure, answers):
    return answers[0] if structure == 0 else tree.pack_sequence_as(structure, answers)


def _differ(answers, others, rows):
    """Whether two answers differ, but for the last row; also where an answer has no row for each row of the inputs."""
    return len(answers) != rows or answers[:-1].tobytes() != others[:-1].tobytes()


def _first_line(error):
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
