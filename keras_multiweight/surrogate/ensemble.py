"""The packed ensemble as three compiled programs: train, ascend, predict. N members, B rows, P weights a member.

The weights of all members are one matrix `(N, P)`, a member is a row of it. Every member reads rows of its own `(B, N, d)`,
so that it can have a window of the data and a scale of its own; B is a fixed capacity, so that nothing is compiled twice.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_multiweight.packing.replicate import replicate
from keras_multiweight.surrogate import lowerings, masks
from keras_multiweight.surrogate.rules import RULES, update

DIRECTIONS, PAIRS, WIDTH = 64, 8, 0.02  # of the evolution strategy: kept, taken a step, and how far they reach
DECAY = 1e-5  # of the weights, beside a mean squared error of targets of about unit spread
EPSILON = 1e-12


def default_network(dim, units=(32, 32)):
    """A function that builds the default member: SiLU, smooth, because its gradient is what leads."""

    def build():
        x = h = keras.Input((dim,))
        for width in units:
            h = keras.layers.Dense(width, activation="silu", kernel_initializer="lecun_normal")(h)
        return keras.Model(x, keras.layers.Dense(1)(h), name="surrogate")

    return build


class PackedEnsemble:
    """N networks that learn and lead at once.

    Args:
        network: A function that builds one member, `(B, dim) -> (B, 1)`, or a built Keras model.
        num_members: N.
        dim: int, numbers a row.
        seed: int.
        optimizers: List of N names of `RULES`.
        rates: (N,) learning rates.
        sparsity: (N,) shares of the weights that are zero at the start.
        widths: (N,) shares of the units of hidden layers that a member has; the others are zero and stay so.
        blocks: (N,) ints, about how many coordinates a hidden unit of a member sees, 0 for all. Both are for networks of
            Dense layers, one after the other: see `masks`.
        steepness: How much wider the weights of the first layer begin.
        member_update: "gradient", or "evolution" to estimate it from losses alone.

    Attributes:
        weights: (N, P).
    """

    def __init__(
        self,
        network,
        num_members,
        dim,
        seed,
        optimizers,
        rates,
        sparsity,
        widths=1.0,
        blocks=0,
        steepness=1.0,
        member_update="gradient",
    ):
        self.network, self.num_members, self.dim = network, num_members, dim
        self._sparsity = np.asarray(sparsity)[:, None]
        self._evolves = _checked_update(member_update) == "evolution"
        self.model = self._fresh(seed)
        self._check(dim)
        self._places = self._layout()
        self._factors = masks.factors([shape for _, _, shape in self._places], widths, blocks)
        self._exists = (self._factors > 0).astype("float32")
        self._factors[:, slice(*self._places[0][:2])] *= steepness
        self.restart(seed)
        self._choice = np.eye(len(RULES), dtype="float32")[[list(RULES).index(name) for name in optimizers]]
        self._rates = np.asarray(rates, "float32")[:, None]
        self._train, self._ascend = lowerings.compiled(self._train_steps), lowerings.compiled(self._ascend_steps)
        self._answer = lowerings.compiled(self._answers)

    def _fresh(self, seed):
        return replicate(self.network, self.num_members, seed=seed, member_inputs=True)

    def restart(self, seed):
        """Fresh members. What is compiled stays."""
        self.model = self._fresh(seed)
        start = [ops.convert_to_numpy(v).reshape(self.num_members, -1) for v in self.model.trainable_variables]
        weights = np.concatenate(start, axis=1)
        dense = np.random.default_rng(seed).random(weights.shape) >= self._sparsity
        self.seed, self._first = seed, (weights * dense * self._factors).astype("float32")
        self.begin_anew()

    def begin_anew(self):
        """Forget what was learned: the weights are again those before all training."""
        self.weights = self._first.copy()
        self.slots = np.zeros((2, *self.weights.shape), "float32")
        self.steps = np.zeros((self.num_members, 1), "float32")

    def _check(self, dim):
        shapes = [tuple(x.shape[2:]) for x in (*self.model.inputs, *self.model.outputs)]
        if shapes != [(dim,), (1,)]:
            raise ValueError(
                f"The network must take one input of {dim} numbers, those of the encoded point, and give one number. "
                f"Received: shapes {shapes}."
            )
        if self.model.non_trainable_variables:
            names = [v.path for v in self.model.non_trainable_variables]
            raise ValueError(f"All weights of the network must be trained, and nothing drawn in it. Received: {names}.")

    def _layout(self):
        """Where each variable of the packed model lies in a row of the matrix."""
        sizes = [math.prod(v.shape) // self.num_members for v in self.model.trainable_variables]
        ends = np.cumsum(sizes).tolist()
        return [(end - size, end, tuple(v.shape)) for size, end, v in zip(sizes, ends, self.model.trainable_variables)]

    # ---- programs, in keras.ops ----

    def _forward(self, weights, x):
        """(N, P) and (B, N, d) -> (B, N)"""
        values = [ops.reshape(weights[:, start:end], shape) for start, end, shape in self._places]
        return self.model.stateless_call(values, [], x)[0][:, :, 0]

    def _train_steps(self, weights, first, second, steps, choice, rates, x, y, sample_weight, directions, decay, count):
        total, exists = ops.sum(sample_weight, axis=0) + 1e-6, ops.convert_to_tensor(self._exists)

        def losses(weights):  # (N, P) -> (N,)
            errors = sample_weight * ops.square(self._forward(weights, x) - y)
            return ops.sum(errors, axis=0) / total + decay * ops.sum(ops.square(weights), axis=1)

        def slope_at(weights, at):
            if self._evolves:
                return evolution_gradient(losses, weights, directions, at)
            return lowerings.gradient(lambda w: ops.sum(losses(w)), weights)

        def body(at, state):
            weights, first, second = state
            slope = slope_at(weights, at) * exists
            fade = 1.0 - 0.9 * at / ops.cast(count, "float32")
            direction, first, second = update(choice, steps + at + 1.0, slope, first, second)
            return weights - fade * rates * direction, first, second

        return lowerings.repeat(count, body, (weights, first, second))

    def _ascend_steps(self, weights, x, low, high, count):
        def height(x):
            return ops.sum(self._forward(weights, x))

        def body(at, state):
            slope = lowerings.gradient(height, state[0])
            slope = slope / (ops.max(ops.abs(slope), axis=-1, keepdims=True) + EPSILON)
            step = 0.25 * 0.8**at
            return (ops.clip(state[0] + step * slope, low, high),)

        return lowerings.repeat(count, body, (x,))[0]

    def _answers(self, weights, x):
        return self._forward(weights, x)

    # ---- for NumPy ----

    def train(self, x, y, sample_weight, count, decay=DECAY):
        """Go on training all members for `count` steps on rows `(B, N, d)`, targets and weights `(B, N)`."""
        data = map(_float, (x, y, sample_weight, self._directions()))
        members = (self.weights, *self.slots, self.steps, self._choice, self._rates)
        state = self._train(*members, *data, np.float32(decay), np.int32(count))
        self.weights, *slots = map(ops.convert_to_numpy, state)
        self.slots = np.stack(slots)
        self.steps = self.steps + np.float32(count)

    def _directions(self):
        """(M, N, P): random directions of the evolution strategy, which its steps take in turn; none for the gradient."""
        shape = (DIRECTIONS if self._evolves else 0, *self.weights.shape)
        return np.random.default_rng([self.seed, int(self.steps.sum())]).standard_normal(shape)

    def ascend(self, x, low, high, count):
        """Lead starts `(S, N, d)` uphill, each in its own member, within `low` and `high`, (N, d)."""
        return ops.convert_to_numpy(self._ascend(self.weights, *map(_float, (x, low, high)), np.int32(count)))

    def predict(self, x):
        """(B, N, d) -> (B, N)"""
        return ops.convert_to_numpy(self._answer(self.weights, _float(x)))

    # ---- members as rows ----

    def copy_member(self, source, target):
        """Give one member the weights of another, and a fresh start of its optimizer.

        Weights that it lacks by its own masks come along, and are not trained.
        """
        weights, slots, steps = self.weights.copy(), self.slots.copy(), self.steps.copy()
        weights[target], slots[:, target], steps[target] = weights[source], 0, 0
        self.weights, self.slots, self.steps = weights, slots, steps

    def state(self):
        """Arrays that make an equal ensemble."""
        return {"weights": self.weights, "slots": self.slots, "steps": self.steps}

    def restore(self, state):
        self.weights, self.slots, self.steps = state["weights"], state["slots"], state["steps"]


def evolution_gradient(losses, weights, directions, at):
    """The gradient of each member's loss, estimated from pairs of losses on both sides (Salimans et al. 2017).

    Args:
        losses: Function `(N, P) -> (N,)`.
        weights: (N, P).
        directions: (M, N, P) of normal draws.
        at: Number of the step, which says where among the directions it takes its own.
    """
    slope = ops.zeros_like(weights)
    for k in range(PAIRS):
        number = ops.cast(ops.mod(at * PAIRS + k, DIRECTIONS), "int32")
        way = ops.take(directions, number, axis=0)
        rise = losses(weights + WIDTH * way) - losses(weights - WIDTH * way)
        slope = slope + ops.expand_dims(rise, 1) * way
    return slope / (2 * WIDTH * PAIRS)


def _checked_update(member_update):
    if member_update not in ("gradient", "evolution"):
        raise ValueError(f"member_update must be 'gradient' or 'evolution'. Received: {member_update!r}.")
    return member_update


def _float(x):
    return np.ascontiguousarray(x, "float32")
