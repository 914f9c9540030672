"""Each member's loss and metrics, as Keras computes them for one member. N members, B rows.

A *scorer* is a Keras model that has the outputs of one member and no weights. It is compiled with the losses and metrics
of `compile`, so that Keras itself says what one member's loss is: names, several outputs, loss weights, masks, custom
functions. It is called once with each member's outputs, and the state of its metrics is kept once a member.
"""

import contextlib
import warnings

import keras
import numpy as np
from keras import ops, tree

from keras_multiweight.callers import stack_level
from keras_multiweight.layers.mapping import StatelessCall, map_stateless
from keras_multiweight.lowerings import for_shapes, known
from keras_multiweight.training import lowerings


def scorer(outputs, names, **compile_args):
    """A compiled model whose outputs are those of one member, from the packed outputs `(B, N, ...)`."""
    inputs = [keras.Input((*x.shape[2:],), dtype=x.dtype) for x in tree.flatten(outputs)]
    ends = [keras.layers.Identity(name=name, dtype=x.dtype)(x) for x, name in zip(inputs, names)]
    model = keras.Model(inputs, tree.pack_sequence_as(outputs, ends), name="scorer")
    model.compile(optimizer=None, jit_compile=False, **compile_args)
    return model


class _Hidden:
    """What Keras must not track."""

    def __init__(self, scorer):
        self.scorer = scorer
        self.results = None  # the function of the members' results, traced once


class MemberScores(keras.metrics.Metric):
    """The state of a scorer's metrics, once for each member."""

    def __init__(self, scorer, num_members, name):
        super().__init__(name=name)
        self._hidden = _Hidden(scorer)
        self.num_members = num_members
        self.rows = num_members  # of the state
        self.stacks = None
        self.lowering = "vectorized"

    def member_results(self):
        """The results as a dict of tensors with the members first."""
        if not self.stacks or set(self._hidden.scorer.metrics_names) <= {"loss"}:  # which the scorer does not track
            return {}
        if self._hidden.results is None:
            self._hidden.results = lowerings.traced_once(self._mapped_results)
        return self._hidden.results()

    def _mapped_results(self):
        results = self._map(lambda _: _flat(self._hidden.scorer.get_metrics_result()), [])
        results.pop("loss", None)
        return results

    def result(self):
        return {name: finite_mean(values) for name, values in self.member_results().items()}

    def reset_state(self):
        for stack in self.stacks or []:
            stack.assign(self._start(stack.start))

    def _map(self, function, tensors):
        """Call a function once with each member's part of `tensors` and of the state."""
        call = StatelessCall(function, self._hidden.scorer.metrics_variables)
        values = [ops.convert_to_tensor(stack) for stack in self.stacks]
        try:
            outputs, updates, _ = map_stateless(call, tensors, values, self.rows, self.lowering)
        except Exception:
            if self.lowering == "unrolled":
                raise
            outputs, updates, _ = map_stateless(call, tensors, values, self.rows, "unrolled")
            self.lowering = "unrolled"
            warnings.warn(
                f"{self.name}: mapping over the members failed, they are computed one by one.", stacklevel=stack_level()
            )
        for index, update in zip(call.assigned, updates):
            self.stacks[index].assign(ops.stop_gradient(update))
        return outputs

    def prepare(self, batch):
        """Have the scorer make its variables, as it does at its first call, and stack them."""
        if self.stacks is None:
            self.rows = self._rows_for(batch)
            with keras.StatelessScope():
                for_shapes(lambda: self._score(*batch.part([x[0] for x in batch.tensors])))
            self._hidden.scorer.reset_metrics()  # objects that a user gave may have been used before
            self.stacks = [self._add_stack(v) for v in self._hidden.scorer.metrics_variables]

    def check(self, batch):
        """Raise a ValueError where a batch does not go with the batches before it."""

    def _rows_for(self, batch):
        return self.num_members

    def _add_stack(self, variable):
        start, shape = ops.convert_to_numpy(variable), (self.rows, *variable.shape)
        stack = self.add_variable(shape, lambda shape, dtype=None: self._start(start), variable.dtype, name=variable.name)
        stack.start = start
        return stack

    def _start(self, value):
        """The state of a scorer's metric before all batches, for every row."""
        return ops.convert_to_tensor(np.repeat(value[None], self.rows, axis=0))


class MemberLosses(MemberScores):
    """The loss of each member: the compiled losses, and all that layers add."""

    def __init__(self, scorer, num_members):
        super().__init__(scorer, num_members, name="member_losses")
        self.total = self.add_variable((num_members,), "zeros", name="total")
        self.count = self.add_variable((), "zeros", name="count")
        self._are_rows_open = False

    @contextlib.contextmanager
    def rows_open(self):
        """A scope in which batches have an unknown number of rows when TensorFlow traces, as they have in Keras's `fit`.

        Of the losses of several outputs Keras shows the mean over rows where their number is known, else over batches.
        """
        self._are_rows_open = True
        try:
            yield
        finally:
            self._are_rows_open = False

    def compute(self, batch):
        """The compiled loss of each member on a `MemberBatch`, (N,)."""
        opens = self._are_rows_open and self.stacks
        tensors = [lowerings.with_rows_open(x) for x in batch.tensors] if opens else batch.tensors
        return self._map(lambda parts: self._score(*batch.part(parts)), tensors)

    def _score(self, y, y_pred, sample_weight):
        if self._hidden.scorer.loss is None:
            return ops.zeros(())
        return self._hidden.scorer.compute_loss(y=y, y_pred=y_pred, sample_weight=sample_weight)

    def update_state(self, losses, rows):
        """Count in the whole loss of each member on a batch, (N,)."""
        rows = ops.cast(rows, self.count.dtype)
        self.total.assign(self.total + ops.cast(ops.stop_gradient(losses), self.total.dtype) * rows)
        self.count.assign(self.count + rows)

    def member_results(self):
        return {"loss": _share(self.total, self.count), **super().member_results()}

    def reset_state(self):
        self.total.assign(ops.zeros(self.total.shape))
        self.count.assign(ops.zeros(()))
        super().reset_state()


class MemberMetrics(MemberScores):
    """The metrics of each member, and those of the mean of the members' outputs, as `ensemble_...`."""

    def __init__(self, scorer, num_members):
        super().__init__(scorer, num_members, name="member_metrics")

    def update_state(self, batch):
        """Count in a `MemberBatch`."""
        self.check(batch)
        tensors = batch.with_mean() if self.rows > self.num_members else batch.tensors
        self._map(lambda parts: self._score(*batch.part(parts)), tensors)

    def check(self, batch):
        if self._rows_for(batch) != self.rows:
            raise ValueError(
                "Targets must have a member axis in all calls after one compile(), or in none, because the metrics of the "
                "mean need targets that serve all members. Received: both. Call compile() again in between."
            )

    def _rows_for(self, batch):
        return self.num_members + batch.has_mean

    def _score(self, y, y_pred, sample_weight):
        self._hidden.scorer.compute_metrics(None, y, y_pred, sample_weight)
        return []

    def member_results(self):
        return {name: values[: self.num_members] for name, values in super().member_results().items()}

    def result(self):
        every = super().member_results()
        means = {name: finite_mean(values[: self.num_members]) for name, values in every.items()}
        if self.rows == self.num_members:
            return means
        return {**means, **{f"ensemble_{name}": values[-1] for name, values in every.items()}}


def _flat(results):
    """Results by name; those of a metric that has several are among the others, as in Keras's logs."""
    parts = ({name: value} if not isinstance(value, dict) else _flat(value) for name, value in results.items())
    return {name: value for part in parts for name, value in part.items()}


def finite_mean(values):
    """The mean over members of `(N, ...)` results, without those that are NaN or inf, unless all are."""
    values = known(values)
    numpy = np if isinstance(values, np.ndarray) else ops
    finite = numpy.isfinite(values)
    total = numpy.sum(numpy.where(finite, values, numpy.zeros_like(values)), axis=0)
    count = numpy.sum(numpy.where(finite, numpy.ones_like(values), numpy.zeros_like(values)), axis=0)
    return numpy.where(count > 0, total / numpy.maximum(count, numpy.ones_like(count)), np.nan)


def _share(total, count):
    """`(N,)` totals by a count; zeros where nothing was counted."""
    total, count = (known(ops.convert_to_tensor(x)) for x in (total, count))
    if isinstance(total, np.ndarray):
        return total / count if count else np.zeros_like(total)
    return ops.divide_no_nan(total, count)


def of_each_member(loss, num_members):
    """(N,) as it is; () is the sum over the members of a loss that all have alike."""
    return loss if len(loss.shape) == 1 else ops.broadcast_to(ops.sum(loss) / num_members, (num_members,))


def num_rows(x):
    """B of the inputs of a model."""
    return ops.shape(next(leaf for leaf in tree.flatten(x) if leaf is not None))[0]
