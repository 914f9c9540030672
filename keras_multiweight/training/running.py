"""Members that rest, stopped or sick, are taken out of the computation while `fit` goes on. N members.

Keras's `fit`, its callbacks, its validation and its history stay those of the model of all members. Only the training
function changes: it trains a smaller model of the members that are still trained. At the begin of an epoch that model takes
up their weights and their optimizer's state, and at the end of the epoch it puts them back, before any callback looks.
"""

import contextlib
import time

import keras
import numpy as np
from keras import ops

from keras_multiweight.seeding import undisturbed
from keras_multiweight.training import lowerings
from keras_multiweight.training.batches import member_columns
from keras_multiweight.training.resume import loss_arguments
from keras_multiweight.training.steps import needs_every_step
from keras_multiweight.training.updates import fresh_copy

WORTH = 2.0  # times the seconds of compiling a model that a smaller one must save, at most, to be compiled


class Running(keras.callbacks.Callback):
    """The last callback of a `fit`: at the begin of an epoch it chooses which members are computed.

    Once half of those that are computed rest, the others are computed alone, where that may save more than it costs, by the
    seconds of the epochs so far; but not where another callback sees, or is part of, every step.

    Args:
        whole: The `MultiModel` that is fitted.
        callbacks: The other callbacks.
    """

    def __init__(self, whole, callbacks):
        super().__init__()
        self.whole = whole
        self._seconds = []  # of the epochs that computed the present members
        self.members = self._all = np.arange(whole.num_members)
        self.part = None  # the `Part` that trains, or None while all members are computed
        self.is_free = not needs_every_step(callbacks, whole) and keras.distribution.distribution() is None

    @contextlib.contextmanager
    def scope(self, feed=None):
        """A scope of Keras's `fit` after which all members are in the whole model, however it ends.

        Args:
            feed: The `Feed` of the whole model, or None where Keras feeds it.
        """
        self._feed = feed
        self.whole.optimizer.fetch_by(self.put_back)
        try:
            yield
        finally:
            self.whole.optimizer.fetch_by(lambda: None)
            self.put_back()
            self._compute(self._all)

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()  # a smaller model is made in the seconds of its first epoch
        self._compute(self._wanted(epoch))
        if self.part:
            self.part.take_up()

    def on_epoch_end(self, epoch, logs=None):
        self._seconds.append(time.perf_counter() - self._start)
        if len(self._seconds) > 1:
            self.whole.note_compiling(self._seconds[0] - min(self._seconds))

    def put_back(self):
        """Have the whole model hold what the members have learned; returns the metrics of the mean of those computed."""
        return self.part.put_back() if self.part else {}

    def _wanted(self, epoch):
        """The numbers of the members to compute in an epoch."""
        trained = np.flatnonzero(~self.whole.optimizer.resting)
        if not np.isin(trained, self.members).all():  # one that rested is trained again
            return self._all
        enough = 0 < 2 * len(trained) <= len(self.members)
        fewer = 1 - len(trained) / len(self.members)
        return trained if enough and self._saved(fewer, epoch) > WORTH * self.whole.note_compiling() else self.members

    def _saved(self, fewer, epoch):
        """Seconds that leaving out such a part of the members saves, at most, until the last epoch."""
        if len(self._seconds) < 2 or not self.is_free:  # the first has compiling in it
            return 0.0
        return fewer * min(self._seconds) * (self.params["epochs"] - epoch)

    def _compute(self, members):
        if len(members) == len(self.members):
            return
        if self.part is None:
            self._function = self.whole.train_function
        is_all = len(members) == len(self._all)
        self.part = None if is_all else Part(self.whole, members, self._feed)
        self.whole.train_function = self._function if is_all else self.part
        self.members, self._seconds = members, []


class Part:
    """Some members of a model in a smaller one, and the training function that trains them.

    Args:
        whole: A compiled `MultiModel`, prepared for training.
        members: (n,) their numbers, ascending, not all.
        feed: The `Feed` of the whole model, or None.
    """

    def __init__(self, whole, members, feed):
        self.model = _compiled_part(whole, members)
        self._state = lowerings.OwnState(self.model)
        self.model.make_train_function()
        self._train = feed.of(self.model) if feed else self.model.train_function
        self._links = _links(whole, self.model, members)
        self._score_links = _score_links(whole, self.model, members)
        self._is_ahead = False  # of the whole model

    def __call__(self, *args):
        """As Keras calls its training functions: `(source)`, or on JAX `(state, source)`, the state of the whole model."""
        *state, source = args
        logs = self._state.run(self._train, source)
        return (logs, *state) if state else logs

    def take_up(self):
        self._is_ahead = True
        self.model.reset_metrics()
        for link in self._links:
            link.take_up()

    def put_back(self):
        if not self._is_ahead:  # what the whole model has may be newer: averages that became weights, say
            return {}
        self._is_ahead = False
        self._state.settle()
        for link in (*self._links, *self._score_links):
            link.put_back()
        results = self.model.get_metrics_result()
        return {name: float(value) for name, value in results.items() if name.startswith("ensemble_")}


def _compiled_part(whole, members):
    """An equally compiled MultiModel of some members, whose training takes the data of all."""
    given = whole.compile_arguments()
    with undisturbed():
        part = whole.select(members)
    for layer, original in zip(part.layers, whole.layers):
        layer.trainable = original.trainable
    said = {key: given[key] for key in ("member_targets", "member_weights")}
    options = {key: given[key] for key in ("run_eagerly", "jit_compile", "auto_scale_loss", "steps_per_execution")}
    part.compile(_optimizers(given["optimizer"], members), **loss_arguments(whole), **options, **said)
    part.prepare_like(whole, lambda data: member_columns(data, whole, members, **said))
    return part


def _optimizers(given, members):
    """Fresh copies of the optimizers of some members, or of the one of all."""
    if isinstance(given, (list, tuple)):
        return [fresh_copy(keras.optimizers.get(given[i])) for i in members]
    return fresh_copy(keras.optimizers.get(given))


class Link:
    """A variable of all members beside that of some, whose first axis holds the members; or one without such an axis.

    Args:
        whole, part: Keras variables.
        count: int, how many members are in `whole`.
        places: Which of them are in `part`, in order.
    """

    def __init__(self, whole, part, count, places):
        self.whole, self.part, self.count, self.places = whole, part, count, places
        self.is_alike = tuple(whole.shape) == tuple(part.shape)
        if not self.is_alike and tuple(whole.shape[1:]) != tuple(part.shape[1:]):
            raise ValueError(f"Variables must be stacked alike. Received: '{whole.path}' and '{part.path}'.")

    def take_up(self):
        whole = ops.convert_to_tensor(self.whole)
        self.part.assign(whole if self.is_alike else self._stack()[self.places].reshape(self.part.shape))

    def put_back(self):
        if self.is_alike:
            return self.whole.assign(ops.convert_to_tensor(self.part))
        stack = self._stack().copy()
        stack[self.places] = ops.convert_to_numpy(self.part).reshape((len(self.places), *stack.shape[1:]))
        return self.whole.assign(stack.reshape(self.whole.shape))

    def _stack(self):
        """(N, rows, ...)"""
        values = ops.convert_to_numpy(self.whole)
        return values.reshape((self.count, len(values) // self.count, *values.shape[1:]))


def _links(whole, part, members):
    """Of all that training changes: weights, states of draws, and the optimizer's variables."""
    groups = [(whole.variables, part.variables, whole.num_members, members)]
    groups += part.optimizer.beside(whole.optimizer, members)
    return [Link(*pair, count, places) for a, b, count, places in groups for pair in zip(a, b, strict=True)]


def _score_links(whole, part, members):
    """Of the state of losses and metrics, which may have one row more, for the mean of the members."""
    found = []
    for a, b in zip(whole.scores(), part.scores(), strict=True):
        rows = [*members, *range(whole.num_members, a.rows)]
        found += [Link(*pair, a.rows, rows) for pair in zip(a.variables, b.variables, strict=True)]
    return found
