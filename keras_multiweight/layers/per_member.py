"""Initial values, regularisers and constraints that act on each member alone.

Two traps live here. An initialiser called on `(N, in, out)` takes its fans from the wrong axes, and an initialiser
object gives the same values at every call. And `MaxNorm` and its kin take their norms over axis 0, the member axis.
"""

import contextlib
import contextvars

import keras
import numpy as np
from keras import ops

from keras_multiweight.copies import build_by_plan, build_plan, copy_layer

_UNDRAWN = contextvars.ContextVar("undrawn", default=False)


@contextlib.contextmanager
def undrawn():
    """For layers whose weights mean nothing: all members of those built within take the values of one draw.

    A draw is a layer of Keras for each member, which takes longer than to compile a program for all of them.
    """
    token = _UNDRAWN.set(True)
    try:
        yield
    finally:
        _UNDRAWN.reset(token)


class MemberDraws:
    """The initial values of N members, each drawn on the member's own shapes by a fresh copy of the layer."""

    def __init__(self, member, num_members):
        self.member = member
        self.num_members = num_members
        self._layers = None

    def value(self, index):
        """The `(N, ...)` initial values of weight number `index`."""
        return np.stack([ops.convert_to_numpy(layer.weights[index]) for layer in self._drawn()])

    def seed(self, state):
        """`(N, 2)` states of a seed generator, one a member."""
        seeds = np.random.SeedSequence(int(ops.convert_to_numpy(state)[0])).generate_state(self.num_members, np.uint32)
        return np.stack([seeds & 0x7FFFFFFF, np.zeros_like(seeds)], axis=1)

    def _drawn(self):
        if self._layers is None:
            same = _UNDRAWN.get()
            self._layers = [self.member if same else self._draw(i) for i in range(self.num_members)]
        return self._layers

    def _draw(self, i):
        config = reseeded(self.member.get_config(), i) if i else self.member.get_config()
        layer = copy_layer(self.member, config)
        build_by_plan(layer, build_plan(self.member))
        return layer


class MemberValues:
    """Initial values that are known: one `(N, ...)` array for each weight."""

    def __init__(self, stacks):
        self.stacks = stacks

    def value(self, index):
        value, self.stacks[index] = self.stacks[index], None  # free the array as soon as the variable has it
        return value


def reseeded(config, i):
    """A config whose fixed seeds are replaced by seeds of member `i`, so that no two members draw the same."""
    if isinstance(config, dict):
        return {key: _seed_of(item, i) if key == "seed" else reseeded(item, i) for key, item in config.items()}
    if isinstance(config, (list, tuple)):
        return [reseeded(item, i) for item in config]
    return config


def _seed_of(seed, i):
    if not isinstance(seed, int):
        return seed
    return int(np.random.SeedSequence((seed, i)).generate_state(1)[0] & 0x7FFFFFFF)


class MemberRegularizer(keras.Regularizer):
    """A regulariser on each member's own weight: `(N,)` penalties, of which Keras takes the sum."""

    def __init__(self, regularizer, stacked_shape):
        self.regularizer = regularizer
        self.stacked_shape = stacked_shape  # (N, ...)

    def __call__(self, x):
        return map_penalty(self.regularizer, ops.reshape(x, self.stacked_shape))


class MemberConstraint(keras.constraints.Constraint):
    """A constraint on each member's own weight."""

    def __init__(self, constraint, stacked_shape):
        self.constraint = constraint
        self.stacked_shape = stacked_shape  # (N, ...)

    def __call__(self, w):
        w = ops.convert_to_tensor(w)
        constrained = ops.vectorized_map(self.constraint, ops.reshape(w, self.stacked_shape))
        return ops.reshape(constrained, ops.shape(w))


class MemberActivityRegularizer:
    """An activity regulariser on each member's own outputs: `(N,)` penalties, of which Keras takes the sum.

    Keras divides what comes from here by `shape[0]`, which is N, not B, when the members come first.
    """

    def __init__(self, regularizer, num_members, member_axis):
        self.regularizer = regularizer
        self.num_members = num_members
        self.member_axis = member_axis

    def __call__(self, outputs):
        if self.member_axis == -1:
            outputs = ops.reshape(outputs, (*ops.shape(outputs)[:-1], self.num_members, -1))
        members_first = ops.moveaxis(outputs, (-2 if self.member_axis == -1 else self.member_axis), 0)
        penalties = map_penalty(self.regularizer, members_first)
        if self.member_axis != 0:
            return penalties
        rows = ops.cast(ops.shape(outputs)[1], penalties.dtype)
        return penalties * self.num_members / rows


def map_penalty(regularizer, members_first):
    """The penalties `(N,)` of a regulariser for each of N tensors, `(N, ...)`."""
    if type(regularizer) is keras.regularizers.L1L2:  # which adds in place, as torch's map does not take it
        l1, l2 = regularizer.l1, regularizer.l2
        return ops.vectorized_map(lambda x: l1 * ops.sum(ops.abs(x)) + l2 * ops.sum(ops.square(x)), members_first)
    return ops.vectorized_map(lambda x: ops.sum(regularizer(x)), members_first)
