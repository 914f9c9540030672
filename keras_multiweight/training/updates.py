"""One update of the members by one Keras optimizer class: on stacked variables as they are, or mapped over members.

Both keep a *bare* Keras optimizer, whose only work is weight decay and the update itself. What every optimizer does alike
(schedules, clipping, accumulation, averages, loss scaling) is `MemberOptimizer`'s, and is taken out of its config.
"""

import contextlib
import functools

import keras
import numpy as np
from keras import ops

from keras_multiweight.layers.mapping import StatelessCall, map_stateless
from keras_multiweight.training.lowerings import assigns_in_place, keras_class, stateless_class
from keras_multiweight.training.weights import choose, choose_rows

BARE = {
    "clipnorm": None,
    "global_clipnorm": None,
    "clipvalue": None,
    "use_ema": False,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
}
k = keras.optimizers
ELEMENTWISE = (k.Adadelta, k.Adagrad, k.Adam, k.Adamax, k.AdamW, k.Ftrl, k.Lion, k.Nadam, k.RMSprop, k.SGD)
ASSIGNS = ("assign", "assign_add", "assign_sub")  # of an optimizer: how its steps change variables
STARTS_ALIKE = (*ELEMENTWISE, k.Adafactor, k.Lamb, k.Muon)  # their state does not depend on the weights they meet first


def fresh_copy(optimizer, cls=None, **changes):
    """An unbuilt optimizer with the settings of another, with changes, perhaps of another class."""
    copy = (cls or keras_class(optimizer)).from_config({**optimizer.get_config(), **changes})
    for name, value in said_later(optimizer).items():
        setattr(copy, name, {} if isinstance(value, dict) else value)  # Keras remembers by ids, of which others come again
    return copy


def said_later(optimizer):
    """What an optimizer was told beside its config, by `exclude_from_weight_decay`: its attributes, by name."""
    same = keras_class(optimizer).from_config(optimizer.get_config())
    if optimizer.built:
        same.build([keras.Variable(np.zeros((1, 1)))])
    return {name: vars(optimizer)[name] for name in vars(optimizer).keys() - vars(same).keys()}


def bare_copy(optimizer, cls):
    """An unbuilt optimizer with the settings of another, but for those that are not its work."""
    config = optimizer.get_config()
    return fresh_copy(optimizer, cls, learning_rate=1.0, **{key: value for key, value in BARE.items() if key in config})


def _own(optimizer):
    """The variables of a bare optimizer but for its learning rate, which it is given at every step."""
    return [v for v in optimizer.variables if v is not optimizer.learning_rate]


@contextlib.contextmanager
def without_constraints(variables):
    """Have an optimizer leave out the constraints: they come after the moving averages, which are not its work."""
    constraints = [v.constraint for v in variables]
    for variable in variables:
        variable.constraint = None
    try:
        yield
    finally:
        for variable, constraint in zip(variables, constraints):
            variable.constraint = constraint


class StackedUpdate:
    """An elementwise optimizer on the stacked variables as they are: in it no number meets another.

    Args:
        optimizer: A Keras optimizer, for its settings.
        weights: The `StackedWeights` to train.
    """

    def __init__(self, optimizer, weights):
        self.base = bare_copy(optimizer, keras_class(optimizer))
        self.weights = weights
        self.members = list(range(weights.num_members))
        self.base.build(weights.stacked)
        self._template = bare_copy(optimizer, keras_class(optimizer))
        self._template.build(weights.templates)

    @property
    def variables(self):
        return _own(self.base)

    def apply(self, gradients, rates, keep):
        """Update the members that `keep`, (N,) or True for all, with the `MemberGradient` of each weight's number."""
        if keep is True:
            return self._step(gradients, rates)
        states = [] if assigns_in_place() else [v for v in self.variables if len(v.shape)]
        others = [v for v in (*self.weights.stacked, *self.variables) if not any(v is state for state in states)]
        before = [ops.copy(v) for v in others]
        with self._sparing(keep, states):
            self._step(gradients, rates)
        for variable, old in zip(others, before):
            variable.assign(self._chosen(keep, ops.convert_to_tensor(variable), old))

    @contextlib.contextmanager
    def _sparing(self, keep, states):
        """Have the optimizer spare other members at once where it assigns to its state.

        What it reads then, to move the weights, is what remains, so that a compiled loop needs no copy of the state before
        it: with wide layers such copies take as long as all else.
        """

        def sparing(assign, variable, value):
            old = ops.copy(variable)
            assign(variable, value)
            if any(variable is state for state in states):
                variable.assign(self._chosen(keep, ops.convert_to_tensor(variable), old))

        for name in ASSIGNS:
            setattr(self.base, name, functools.partial(sparing, getattr(self.base, name)))
        try:
            yield
        finally:
            for name in ASSIGNS:
                delattr(self.base, name)

    def _step(self, gradients, rates):
        stacked = [self.weights.stacked[i] for i in gradients]
        self.base.learning_rate = rates[0]
        with without_constraints(stacked):
            self.base.apply([g.stacked(v) for g, v in zip(gradients.values(), stacked)], stacked)

    def _chosen(self, keep, new, old):
        if not len(new.shape):  # a counter, which all members share
            return ops.where(ops.any(keep), new, old)
        return choose_rows(keep, new, old)

    def state(self, i):
        """The state of one member as NumPy arrays, in the order of a single optimizer's variables."""
        return [self._of_member(v, t, i) if len(v.shape) else ops.convert_to_numpy(v) for v, t in self._pairs()]

    def set_state(self, i, values):
        for (variable, template), value in zip(self._pairs(), values):
            if len(variable.shape):
                stack = ops.convert_to_numpy(variable).reshape((len(self.members), *template.shape)).copy()
                stack[i] = value
                value = stack.reshape(variable.shape)
            variable.assign(value)

    def _pairs(self):
        return list(zip(self.variables, _own(self._template)))

    def _of_member(self, variable, template, i):
        return ops.convert_to_numpy(variable).reshape((len(self.members), *template.shape))[i]


class MappedUpdate:
    """Any optimizer at all, by calling it once with each member's gradients, weights and state.

    It sees one member at a time, so that norms, trust ratios and factored moments are each member's own. Learning rates
    and weight decays may differ from member to member.

    Args:
        optimizers: The Keras optimizer of each member, of one class and equal settings, but for what may differ.
        members: The numbers of these members.
        weights: The `StackedWeights` to train.
    """

    def __init__(self, optimizers, members, weights):
        self.base = bare_copy(optimizers[0], stateless_class(keras_class(optimizers[0])))
        self.weights = weights
        self.members = list(members)
        self.base.build(weights.templates)
        self._origins = _own(self.base)
        starts = [self._starts(i) for i in self.members] if not isinstance(optimizers[0], STARTS_ALIKE) else None
        self.variables = [self._stack(v, starts and [s[at] for s in starts]) for at, v in enumerate(self._origins)]
        decays = [optimizer.weight_decay for optimizer in optimizers]
        self._decays = decays if len(set(decays)) > 1 else None

    def _starts(self, i):
        """The initial state of one member, which may depend on its weights."""
        for at, template in enumerate(self.weights.templates):
            template.assign(self.weights.values(at)[i])
        fresh = type(self.base).from_config(self.base.get_config())
        fresh.build(self.weights.templates)
        return [ops.convert_to_numpy(v) for v in _own(fresh)]

    def _stack(self, origin, starts):
        values = np.stack(starts or [ops.convert_to_numpy(origin)] * len(self.members))
        return keras.Variable(values, dtype=origin.dtype, trainable=False, name=origin.name)

    def apply(self, gradients, rates, keep):
        """Update the members that `keep`, (N,) or True for all, with the `MemberGradient` of each weight's number."""
        own = [self._mine(part) for g in gradients.values() for part in g.parts]
        hyper = [self._mine(rates)] + ([ops.convert_to_tensor(self._decays)] if self._decays else [])
        every = [self.weights.values(i) for i in range(len(self.weights.templates))]
        values = [*map(self._mine, every), *map(ops.convert_to_tensor, self.variables)]
        call = StatelessCall(lambda tensors: self._step(gradients, tensors), [*self.weights.templates, *self._origins])
        sparse = any(g.ids is not None for g in gradients.values())  # whose steps TensorFlow does not map
        lowering = "unrolled" if sparse else "vectorized"
        _, updates, _ = map_stateless(call, [*hyper, *own], values, len(self.members), lowering)
        keep = keep is True or self._mine(keep)
        for index, new in zip(call.assigned, updates):
            new = choose(keep, new, values[index])
            if index < len(every):
                self.weights.assign(index, self._put(every[index], new))
            else:
                self.variables[index - len(every)].assign(new)

    def _step(self, gradients, tensors):
        supply = iter(tensors)
        self.base.learning_rate = next(supply)
        if self._decays:
            self.base.weight_decay = next(supply)
        found = [gradient.member(supply) for gradient in gradients.values()]
        templates = [self.weights.templates[i] for i in gradients]
        with without_constraints(templates):
            self.base.apply(found, templates)
        return []

    def _mine(self, x):
        """(N, ...) -> the part of these members"""
        return x if self._has_all() else ops.take(x, self.members, axis=0)

    def _put(self, every, mine):
        if self._has_all():
            return mine
        return ops.scatter_update(every, [[i] for i in self.members], mine)

    def _has_all(self):
        return self.members == list(range(self.weights.num_members))

    def state(self, i):
        """The state of one member as NumPy arrays, in the order of a single optimizer's variables."""
        at = self.members.index(i)
        return [ops.convert_to_numpy(v)[at] for v in self.variables]

    def set_state(self, i, values):
        at = self.members.index(i)
        for variable, value in zip(self.variables, values):
            stack = ops.convert_to_numpy(variable).copy()
            stack[at] = value
            variable.assign(stack)
