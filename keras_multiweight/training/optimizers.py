"""MemberOptimizer: every member is updated as its own Keras optimizer would update it alone. N members.

Keras's optimizers couple members that lie in one variable wherever they take a norm or a mean of it: clipping by norm,
Lamb, Adafactor, Muon, loss scaling. What is common to all classes is done here for each member; the update of a class is
done by `StackedUpdate` where the class is known to be elementwise, and by `MappedUpdate` everywhere else.
"""

import contextlib
import functools

import keras
import numpy as np
from keras import ops

from keras_multiweight.training.checks import checked_optimizers
from keras_multiweight.training.clipping import Clipping
from keras_multiweight.training.gradients import MemberGradient, per_member
from keras_multiweight.training.lowerings import for_members, has_branches, keras_class, outside_of_graphs
from keras_multiweight.training.optimizer_settings import kind, schedule
from keras_multiweight.training.updates import ELEMENTWISE, MappedUpdate, StackedUpdate
from keras_multiweight.training.weights import both, choose


class _Hidden:
    """What Keras must not track, or save a second time."""


class MemberOptimizer(keras.optimizers.Optimizer):
    """Updates each member as its own optimizer would. Made by `MultiModel.compile`.

    Args:
        optimizers: One Keras optimizer for all members, or a list of one a member.
        weights: The `StackedWeights` to train.

    Attributes:
        member_learning_rates: (N,).
        quarantined: (N,): the step at which a member's gradient was first NaN or inf, from 1, or 0 while it never was.
    """

    def __init__(self, optimizers, weights):
        super().__init__(learning_rate=0.0, name="member_optimizer")
        self._hidden = hidden = _Hidden()
        hidden.weights = weights
        hidden.one = not isinstance(optimizers, (list, tuple))
        optimizers = checked_optimizers(optimizers, weights.num_members)
        hidden.scaling = optimizers[0] if isinstance(optimizers[0], keras.optimizers.LossScaleOptimizer) else None
        hidden.given = optimizers
        hidden.optimizers = [getattr(o, "inner_optimizer", o) for o in optimizers]
        hidden.config = hidden.optimizers[0].get_config()
        schedules = {id(o): schedule(o) for o in hidden.optimizers}
        hidden.schedules = [schedules[id(o)] for o in hidden.optimizers]
        hidden.clipping = Clipping(hidden.optimizers)
        hidden.updates = []
        hidden.guests = []
        hidden.spares = None  # see `traced_for`; None, where a step finds out
        hidden.fetch = lambda: None
        hidden.stacked = hidden.one and keras_class(optimizers[0]) in ELEMENTWISE  # not for a LossScaleOptimizer
        self._add_member_variables()

    # ---- variables ----

    def _add_member_variables(self):
        hidden, shape = self._hidden, (self._hidden.weights.num_members,)
        pairs = zip(hidden.optimizers, hidden.schedules)
        rates = [1.0 if schedule else float(ops.convert_to_numpy(o.learning_rate)) for o, schedule in pairs]
        self.rates = self.add_variable(shape, _constant(rates), name="learning_rates")
        self.active = self.add_variable(shape, "ones", dtype="int32", name="active")
        self.sick = self.add_variable(shape, "zeros", dtype="int32", name="quarantined")
        if hidden.scaling:
            start = _constant([hidden.scaling.initial_scale] * shape[0])
            self.scale = self.add_variable(shape, start, name="dynamic_scale")
            self.counter = self.add_variable(shape, "zeros", dtype="int32", name="step_counter")
            self.counted = self.add_variable(shape, "zeros", dtype="int32", name="counted_steps")
        self.averages, self.accumulators = [], []

    def build(self, variables):
        if self.built:
            return
        hidden = self._hidden
        with outside_of_graphs():
            super().build(variables)
            hidden.order = [hidden.weights.index(v) for v in variables]
            self.averages = self._stacks("average") if hidden.config["use_ema"] else []
            self.accumulators = self._stacks("accumulator") if hidden.config["gradient_accumulation_steps"] else []
            hidden.updates = self._make_updates()

    def _stacks(self, name):
        weights = self._hidden.weights
        shapes = [(weights.num_members, *t.shape) for t in weights.templates]
        return [self.add_variable(s, dtype=t.dtype, name=name) for s, t in zip(shapes, weights.templates)]

    def _make_updates(self):
        """One update for all members, or one for each class among their optimizers."""
        weights, optimizers = self._hidden.weights, self._hidden.optimizers
        if self._hidden.stacked:
            return [StackedUpdate(optimizers[0], weights)]
        groups = {}
        for i, optimizer in enumerate(optimizers):
            groups.setdefault(kind(optimizer), []).append(i)
        return [MappedUpdate([optimizers[i] for i in members], members, weights) for members in groups.values()]

    @property
    def variables(self):
        return [*self._own_variables(), *self._hidden.guests]

    def _own_variables(self):
        return [*super().variables, *(v for update in self._hidden.updates for v in update.variables)]

    def host(self, variables):
        """Have the training step carry variables of callbacks too, which are part of it; they are not saved."""
        self._hidden.guests = list(variables)

    def save_own_variables(self, store):
        for i, variable in enumerate(self._own_variables()):
            store[str(i)] = ops.convert_to_numpy(variable)

    # ---- learning rates ----

    @property
    def learning_rate(self):
        """The mean of the members' learning rates. Setting it sets those of all members."""
        return ops.mean(self.member_learning_rates)

    @learning_rate.setter
    def learning_rate(self, value):
        every = (len(self._hidden.optimizers),)
        self.member_learning_rates = np.broadcast_to(ops.convert_to_numpy(value), every)

    @property
    def member_learning_rates(self):
        """(N,). Schedules are read at the current step."""
        schedules = self._hidden.schedules
        if not any(schedules):
            return ops.convert_to_tensor(self.rates)
        if self._hidden.scaling:  # a skipped step is not counted
            rates = [s(self.counted[i]) if s else self.rates[i] for i, s in enumerate(schedules)]
        else:
            known = {id(s): s(self.iterations) for s in schedules if s}
            rates = [known[id(s)] if s else self.rates[i] for i, s in enumerate(schedules)]
            if self._hidden.one:  # of which XLA joins constant factors as it does of a single member's
                return ops.broadcast_to(ops.cast(rates[0], self.rates.dtype), (len(rates),))
        return ops.stack([ops.cast(rate, self.rates.dtype) for rate in rates])

    @member_learning_rates.setter
    def member_learning_rates(self, values):
        if any(self._hidden.schedules):
            raise TypeError("A learning rate that follows a schedule cannot be set. Compile with a float learning rate.")
        values = np.asarray(ops.convert_to_numpy(values), self.rates.dtype)
        if self._hidden.stacked and len(set(values.tolist())) > 1:
            raise ValueError(
                "One optimizer for all members has one learning rate. For learning rates that differ give "
                f"compile() one optimizer a member: optimizer=[Adam() for _ in range({len(values)})]. Received: {values}."
            )
        self.rates.assign(values)

    # ---- one step ----

    def scale_loss(self, losses):
        """The sum over members of their losses, (N,) -> (), which is the number to differentiate."""
        if self._hidden.scaling:
            losses = losses * ops.cast(self.scale, losses.dtype)
        return ops.sum(super().scale_loss(losses)) * (self._hidden.config["loss_scale_factor"] or 1)

    def apply(self, grads, trainable_variables=None):
        gradients = self._of_members(grads, trainable_variables)
        self._update(gradients, alive=self.are_trained(), finite=_all_finite(gradients))

    def apply_to_all(self, grads, trainable_variables):
        """As `apply`, where all members are known to be trained and all gradients to be finite: it spares none."""
        self._update(self._of_members(grads, trainable_variables), alive=True, finite=True)

    def _of_members(self, grads, variables):
        """Dict of numbers of weights to `MemberGradient`, in order."""
        weights = self._hidden.weights
        order = [weights.index(v) for v in variables] if variables else self._hidden.order
        return {
            i: MemberGradient(g, weights.templates[i].shape, weights.num_members)
            for i, g in sorted(zip(order, grads), key=lambda pair: pair[0])
            if g is not None
        }

    def _update(self, gradients, alive, finite):
        """One step of the members that are `alive` and whose gradients are `finite`, (N,) each, or True for all."""
        spares, keep = self._hidden.spares, both(alive, finite)
        if spares is None:
            gradients = self._hidden.clipping.for_branch(gradients, alive) if has_branches(keep) else gradients
            for_members(keep, functools.partial(self._move, gradients), self._changing())
        else:
            self._move(gradients, keep if spares else True)
        self._note(alive, finite)
        self.iterations.assign_add(1)

    def _changing(self):
        return [*self._hidden.weights.stacked, *self._own_variables()]

    def _move(self, gradients, moved):
        """Train the members that are `moved`, (N,), or True for all."""
        gradients, due = self._accumulated(self._unscaled(gradients), moved)
        update = functools.partial(self._apply_updates, gradients)
        if moved is True:
            for_members(due, update, self._changing())
        else:
            update(both(moved, due))
        self._average(moved)
        self._constrain(gradients, moved)

    def _apply_updates(self, gradients, keep):
        rates, keep = self.member_learning_rates, keep is True or ops.broadcast_to(keep, self.active.shape)
        for update in self._hidden.updates:
            update.apply(self._hidden.clipping(gradients, update.members), rates, keep)

    def _unscaled(self, gradients):
        factor = self._hidden.config["loss_scale_factor"]
        if self._hidden.scaling:
            return {i: g.map(lambda v: v / per_member(ops.cast(self.scale, v.dtype), v)) for i, g in gradients.items()}
        return {i: g.map(lambda v: v / factor) for i, g in gradients.items()} if factor else gradients

    def _counted(self):
        """How many steps were taken: (), or (N,) where losses are scaled, and a member leaves out some."""
        return ops.convert_to_tensor(self.counted if self._hidden.scaling else self.iterations)

    def _accumulated(self, gradients, moved):
        """The mean gradients of the last steps, and whether this step uses them: (), (N,) or True."""
        steps = self._hidden.config["gradient_accumulation_steps"]
        if not steps:
            return gradients, True
        due = ops.equal((self._counted() + 1) % steps, 0)
        means = {}
        for i, gradient in gradients.items():
            total = gradient.dense().map(lambda v, i=i: v + self.accumulators[i])
            means[i] = total.map(lambda v: v / steps)
            rest = choose(due, ops.zeros_like(total.values), total.values)
            self.accumulators[i].assign(choose(moved, rest, ops.convert_to_tensor(self.accumulators[i])))
        return means, due

    def _average(self, moved):
        """Moving averages of the weights, and the weights overwritten by them."""
        config, weights = self._hidden.config, self._hidden.weights
        iterations = self._counted() // (config["gradient_accumulation_steps"] or 1)
        for i, average in enumerate(self.averages):
            values = weights.values(i)
            momentum = per_member(ops.cast(ops.not_equal(iterations, 0), values.dtype), values) * config["ema_momentum"]
            average.assign(choose(moved, momentum * average + (1 - momentum) * values, ops.convert_to_tensor(average)))
            if config["ema_overwrite_frequency"]:
                now = ops.equal((iterations + 1) % config["ema_overwrite_frequency"], 0)
                weights.assign(i, choose(both(moved, now), ops.convert_to_tensor(average), values))

    def _constrain(self, gradients, moved):
        weights = self._hidden.weights
        for i in gradients:
            if weights.stacked[i].constraint is not None:
                values = weights.values(i)
                allowed = ops.reshape(weights.stacked[i].constraint(weights.stacked[i]), values.shape)
                weights.assign(i, choose(moved, allowed, values))

    def _note(self, alive, finite):
        """Quarantine a member that is sick; or, where losses are scaled, choose the next scale."""
        if self._hidden.scaling:
            return self._rescale(ops.broadcast_to(finite, self.counter.shape))
        if finite is not True:
            found = both(alive, ops.logical_not(finite))
            self.sick.assign(ops.where(found, ops.cast(self.iterations + 1, "int32"), ops.convert_to_tensor(self.sick)))

    def _rescale(self, finite):
        """Choose the next scale of each member's loss, whose gradients were `finite`, (N,), or not."""
        grown = ops.equal(self.counter, self._hidden.scaling.dynamic_growth_steps - 1)
        factor = ops.where(finite, ops.where(grown, 2.0, 1.0), 0.5)
        self.scale.assign(self.scale * ops.cast(factor, self.scale.dtype))
        self.counter.assign(ops.where(ops.logical_and(finite, ops.logical_not(grown)), self.counter + 1, 0))
        self.counted.assign(self.counted + ops.cast(finite, "int32"))

    def fetch_by(self, fetch):
        """Have `fetch()` called at the end of `fit`, however it comes, to put all that is computed elsewhere in place."""
        self._hidden.fetch = fetch

    def finalize_variable_values(self, var_list):
        """Where averages are kept, they become the weights. Keras on JAX does so even where a training is cut off."""
        self._hidden.fetch()
        for i, average in enumerate(self.averages):
            self._hidden.weights.assign(i, ops.copy(average))  # two variables of one array fail in JAX's next fit

    # ---- members ----

    @contextlib.contextmanager
    def members_active(self):
        """A scope in which callbacks stop members; at its end, however it comes, all can be trained again."""
        try:
            yield
        finally:
            self.active.assign(np.ones(self.active.shape, "int32"))

    @property
    def quarantined(self):
        return ops.convert_to_numpy(self.sick)

    @contextlib.contextmanager
    def traced_for(self, spares):
        """A scope of tracing steps for training in which members may rest, or, with `spares` False, in which none does.

        These spare no member: of one that falls sick they only say so.
        """
        self._hidden.spares = spares
        try:
            yield
        finally:
            self._hidden.spares = None

    @property
    def clips_by_norm(self):
        """Whether the gradient of a weight is clipped by its own norm."""
        return self._hidden.clipping.by_norm

    def are_trained(self):
        """Which members a training step changes, a tensor (N,) of bools, or True for all."""
        if self._hidden.spares is False:
            return True
        return ops.logical_and(ops.equal(self.sick, 0), ops.equal(self.active, 1))

    @property
    def resting(self):
        """Which members are not trained, because they were stopped or are sick, (N,) bools."""
        return _resting(self.active, self.sick)

    def may_spare(self, values):
        """Whether members rest where these variables have such values; or may leave out steps, each with a loss scale."""
        found = {id(v): value for v, value in zip(self.variables, values)}
        return bool(self._hidden.scaling) or bool(_resting(found[id(self.active)], found[id(self.sick)]).any())

    def beside(self, whole, members):
        """This optimizer's variables beside those of an optimizer of more members, of whom this one has `members`.

        Returns:
            List of tuples: variables of `whole`, those of this optimizer in the same order, how many members the first
            are of, and which of these the second are of.
        """
        found = [(super(MemberOptimizer, whole).variables, super().variables, len(whole.quarantined), members)]
        for update in self._hidden.updates:
            numbers = [int(members[i]) for i in update.members]
            other = next(u for u in whole._hidden.updates if numbers[0] in u.members)
            places = [other.members.index(number) for number in numbers]
            found.append((other.variables, update.variables, len(other.members), places))
        return found

    def member_state(self, i):
        """The variables of member `i`'s optimizer, in Keras's order: steps, averages, accumulators, its own."""
        update = next(u for u in self._hidden.updates if i in u.members)
        steps, *own = update.state(i)
        if self.accumulators:
            steps = np.broadcast_to(ops.convert_to_numpy(self._counted()), self.active.shape)[i]
        common = [ops.convert_to_numpy(v)[i] for v in (*self.averages, *self.accumulators)]
        return [steps, *common, *own, *(ops.convert_to_numpy(v)[i] for v in self._scales())]

    def set_member_state(self, i, values):
        """Set the variables of member `i`'s optimizer from arrays, as `member_state(i)` gives them."""
        update = next(u for u in self._hidden.updates if i in u.members)
        expected = [np.shape(value) for value in self.member_state(i)]
        if expected != [np.shape(value) for value in values]:
            raise ValueError(f"An optimizer's state must have shapes {expected}. Received: {[np.shape(v) for v in values]}.")
        steps, *rest = values
        common, scales = [*self.averages, *self.accumulators], self._scales()
        own = rest[len(common) : len(rest) - len(scales)]
        update.set_state(i, [steps // (self._hidden.config["gradient_accumulation_steps"] or 1), *own])
        for variable, value in zip([*common, *scales], [*rest[: len(common)], *rest[len(rest) - len(scales) :]]):
            stack = ops.convert_to_numpy(variable).copy()
            stack[i] = value
            variable.assign(stack)
        self.iterations.assign(steps)
        if scales:
            self.counted.assign(np.where(np.arange(len(self.quarantined)) == i, steps, ops.convert_to_numpy(self.counted)))

    def _scales(self):
        """The variables of dynamic loss scaling, (N,)."""
        return [self.counter, self.scale] if self._hidden.scaling else []

    def member_optimizer(self, i):
        """The Keras optimizer that says how member `i` trains."""
        return self._hidden.given[i]

    def get_config(self):
        raise NotImplementedError("A MemberOptimizer is made by MultiModel.compile; its config is the model's.")


def _constant(values):
    return lambda shape, dtype=None: ops.convert_to_tensor(values, dtype=dtype)


def _resting(active, sick):
    """Which members are stopped or sick, (N,) bools."""
    return (ops.convert_to_numpy(active) == 0) | (ops.convert_to_numpy(sick) > 0)


def _all_finite(gradients):
    found = [gradient.finite() for gradient in gradients.values()]
    return ops.all(ops.stack(found), axis=0)
