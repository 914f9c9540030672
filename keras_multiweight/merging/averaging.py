"""PeriodicModelAveraging: members that are averaged, or pulled together, every so often while they train."""

import keras
from keras import ops, tree

from keras_multiweight.copies import all_layers
from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.merging.splits import SplitDataset
from keras_multiweight.training import lowerings
from keras_multiweight.training.trainer import MemberTrainer

UNITS = ("batch", "epoch")


class PeriodicModelAveraging(keras.callbacks.Callback):
    """Every so often replaces the members' weights by their average, or pulls them towards it.

    For a model of layers with a member axis, `MultiDense` and the like. Members that never part far stay mergeable: at the
    end `uniform_soup` of them is one good network. Integers and seeds are left alone.

    - `alpha=0` replaces: local SGD, or lazy aggregation. The members' optimizer states stay their own.
    - `alpha` near 1 pulls: PAPA, whose paper takes 0.99 every 10 batches.
    - `outer_optimizer` takes the way that the average has gone since the last time as a gradient: DiLoCo, whose paper takes
      `keras.optimizers.SGD(0.7, momentum=0.9, nesterov=True)` every 500 batches. All members go on from where it leads.

    Args:
        period: int, how many batches or epochs lie between two averagings.
        unit: `"batch"` or `"epoch"`. Periods in batches are counted by the optimizer's `iterations`. A `MultiModel` averages
            in its compiled training step, also where `steps_per_execution` puts many of them in one program. In other
            models Keras calls this once an execution: a period is a multiple of these.
        alpha: float from 0 to 1, how much of its own weights a member keeps.
        warmup: int, how many batches or epochs pass before the first period begins.
        outer_optimizer: A Keras optimizer of its own, or None. It needs `alpha=0`.
        reshuffle: Where the members read inputs of their own (`member_inputs=True`) and `fit` is given arrays for one, each
            member trains on a part of the rows, as `SplitDataset` cuts them. `True` draws the parts anew at every epoch,
            `False` keeps those of the first. It has no meaning where all members read the same batches.
        seed: int, of the parts. Left out, they are new for each `fit`.

    Example:

    ```python
    multi = kmw.replicate(build, 4, member_inputs=True)
    multi.compile("sgd", "sparse_categorical_crossentropy", member_targets=True)  # each member has labels of its own
    multi.fit(x, y, epochs=30, callbacks=[merging.PeriodicModelAveraging(1, unit="epoch")])
    merged = merging.uniform_soup(multi)
    ```

    Reference: Jolicoeur-Martineau et al., 2023, "PopulAtion Parameter Averaging (PAPA)"; Douillard et al., 2023, "DiLoCo:
    distributed low-communication training of language models".
    """

    def __init__(self, period, unit="batch", alpha=0.0, warmup=0, outer_optimizer=None, reshuffle=True, seed=None):
        super().__init__()
        if period < 1 or warmup < 0 or unit not in UNITS or not 0 <= alpha <= 1 or (outer_optimizer and alpha):
            raise ValueError(
                'period must be at least 1, warmup at least 0, unit "batch" or "epoch", alpha from 0 to 1, and 0 with an '
                f"outer_optimizer. Received: period={period}, warmup={warmup}, unit={unit!r}, alpha={alpha}, "
                f"outer_optimizer={outer_optimizer}."
            )
        self.period = period
        self.unit = unit
        self.alpha = alpha
        self.warmup = warmup
        self.outer_optimizer = outer_optimizer
        self.reshuffle = reshuffle
        self.seed = seed
        self._passed = 0
        self._places = []  # (variable, how many members it is of)
        self._outer = []  # where the outer optimizer has led

    def is_inside_step(self, model):
        """Whether this computes in the compiled training step of a model."""
        return isinstance(model, MemberTrainer) and self.unit == "batch"

    def step_variables(self, model):
        """The variables that `after_step` changes and that are none of the model's: those of the outer optimizer."""
        self._find_places(model)
        return self._outer_variables()

    def members_data(self, model, x, y, sample_weight, batch_size):
        """Arrays for one member, cut into parts for all, if the members of a `MultiModel` read inputs of their own."""
        if not (model.member_inputs and all(model.member_inputs)) or not _is_for_one(model, x):
            return None
        said = model.compile_arguments()["member_targets"]
        if said is None and any(len(a.shape) + 1 < len(b.shape) for a, b in zip(tree.flatten(y), model.outputs)):
            raise ValueError(
                "Each member has targets of its own where the rows are cut into parts. Say so: "
                f"'{model.name}'.compile(..., member_targets=True). Received: member_targets=None."
            )
        options = {"sample_weight": sample_weight, "reshuffle": self.reshuffle, "seed": self.seed}
        return SplitDataset(x, y, model.num_members, batch_size, **options)

    def on_train_begin(self, logs=None):
        self._passed = 0
        self._find_places(self.model)
        self._check_steps()
        for variable, mean in zip(self._outer, self._means()):
            variable.assign(mean)

    def _find_places(self, model):
        layers = [layer for layer in all_layers(model) if isinstance(layer, MultiLayer)]
        found = {id(v): (v, layer.num_members) for layer in layers for v in layer.stacked_weights if "float" in v.dtype}
        if not found:
            raise ValueError(
                "PeriodicModelAveraging needs a model with layers that have a member axis. Received: "
                f"'{model.name}', which has none."
            )
        self._places = list(found.values())
        if self.outer_optimizer and not self._outer:  # which keeps its state from one `fit` to the next
            self._outer = [keras.Variable(mean, trainable=True) for mean in self._means()]
            self.outer_optimizer.build(self._outer)

    def _outer_variables(self):
        return [*self._outer, *self.outer_optimizer.variables] if self.outer_optimizer else []

    def _check_steps(self):
        """Between executions, a period can end only where an execution does."""
        model = self.model
        trains_members = isinstance(model, MemberTrainer)
        steps = model.compile_arguments()["steps_per_execution"] if trains_members else model.steps_per_execution
        if self.unit != "batch" or self.is_inside_step(model) or not isinstance(steps, int):
            return
        if self.period % steps or self.warmup % steps:
            raise ValueError(
                "period and warmup must be multiples of steps_per_execution in a model that is no MultiModel. Received: "
                f"period={self.period}, warmup={self.warmup} and steps_per_execution={steps}."
            )

    def on_train_batch_end(self, batch, logs=None):
        if self.unit == "batch" and not self.is_inside_step(self.model):
            self._count(batch + 1 - self._in_epoch)
            self._in_epoch = batch + 1

    def on_epoch_begin(self, epoch, logs=None):
        self._in_epoch = 0

    def on_epoch_end(self, epoch, logs=None):
        if self.unit == "epoch":
            self._count(1)

    def _count(self, steps):
        """Average once if a period has ended since the last call."""
        before, self._passed = self._passed, self._passed + steps
        if (self._passed - self.warmup) // self.period > max((before - self.warmup) // self.period, 0):
            self.average()

    def average(self):
        """Average now."""
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # inside an epoch the variables hold what they were at its beginning
        self._assign(self._averages())

    def after_step(self, iterations):
        """Average where a period ends with this step; a part of the training step."""
        passed = iterations - self.warmup
        due = ops.logical_and(passed > 0, ops.equal(ops.mod(passed, self.period), 0))
        self._assign(ops.cond(due, self._averages, lambda: [ops.convert_to_tensor(v.value) for v in self._changed()]))

    def _changed(self):
        return [*(variable for variable, _ in self._places), *self._outer_variables()]

    def _assign(self, values):
        for variable, value in zip(self._changed(), values, strict=True):
            variable.assign(value)

    def _averages(self):
        """The values of all that averaging changes, after it."""
        means = self._means()
        if not self.outer_optimizer:
            return self._pulled(means)
        outer, state = self._step(means)
        return [*self._pulled(outer), *outer, *state]

    def _means(self):
        return [_mean(v.value, count) for v, count in self._places]

    def _pulled(self, means):
        """The members' weights, replaced by the means or pulled towards them."""
        return [self._pull(variable, count, mean) for (variable, count), mean in zip(self._places, means)]

    def _pull(self, variable, count, mean):
        repeated = ops.reshape(ops.repeat(mean[None], count, axis=0), variable.shape)
        return self.alpha * variable.value + (1 - self.alpha) * repeated

    def _step(self, means):
        """What the outer optimizer makes of the way that the average has gone: where it leads, and its state."""
        gradients = [outer.value - mean for outer, mean in zip(self._outer, means)]
        return lowerings.stepped(self.outer_optimizer, gradients, self._outer)


def _is_for_one(model, x):
    """Whether inputs are arrays without a member axis, for a model whose inputs have one."""
    arrays, inputs = tree.flatten(x), model.inputs
    shapes = [getattr(array, "shape", ()) for array in arrays]
    return len(arrays) == len(inputs) and all(
        len(shape) == len(own.shape) - 1 and tuple(shape[1:]) == tuple(own.shape[2:]) for shape, own in zip(shapes, inputs)
    )


def _mean(value, count):
    """The mean over the members, which are `count` equal blocks of the first axis."""
    return ops.mean(ops.reshape(value, (count, value.shape[0] // count, *value.shape[1:])), axis=0)
