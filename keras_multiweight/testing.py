"""Does a packed training end where the members' own trainings end? `assert_trains_alike` answers for any model."""

import functools
import warnings

import keras
import numpy as np
from keras import ops

from keras_multiweight.callers import stack_level
from keras_multiweight.copies import draws_in_training
from keras_multiweight.packing.pack import pack
from keras_multiweight.training.optimizer_settings import with_loss_scale
from keras_multiweight.training.resume import state_variables
from keras_multiweight.training.updates import fresh_copy


def assert_trains_alike(
    build,
    data,
    compile_args,
    fit_args=None,
    *,
    num_members=3,
    tolerance=1e-5,
    roundings=4,
    seed=0,
    check_state=True,
    member_inputs=False,
):
    """Train N models one after another, and the same N packed, and compare weights, optimizer state and history.

    A weight whose gradient is nothing but rounding, such as a bias before a normalisation, moves at random under an
    optimizer that normalises gradients; compare models without such weights.

    All see the same batches in the same order (`shuffle=False`). Weights may differ by `tolerance` times the largest
    movement of a weight in training, so that a member that hardly moved is not called equal for that.

    Some trainings make much of a rounding: two runs of one member on two machines end as far apart. Where packed and single
    training differ by more than the tolerance, the members are trained alone once more, with the last bits of their initial
    weights changed, and may differ by `roundings` times what that makes. A warning says so. Such a training says little
    about small errors: compare it in float64, where roundings do not reach the tolerance (on TensorFlow and JAX; even
    then Keras computes in float32 on torch, and attention and LayerNormalization on JAX):

    ```python
    keras.config.set_floatx("float64")  # on JAX also jax.config.update("jax_enable_x64", True)
    keras.config.set_dtype_policy("float64")  # for models: set_floatx does not change it once a layer was made
    kmw.testing.assert_trains_alike(build, data, compile_args, tolerance=1e-10, roundings=0)
    ```

    Args:
        build: Function without arguments that builds a model. Its initial weights are drawn after
            `keras.utils.set_random_seed`, with a seed of its own for each member.
        data: Tuple `(x, y)` or `(x, y, sample_weight)` of arrays as `MultiModel.fit` takes them, or a function of a
            member's number that gives them as one model's `fit` takes them, and for `None` as the packed model's does.
        compile_args: Dict of arguments of `compile`; or a function of a member's number that gives them, for optimizers
            that differ from member to member. Optimizers are made anew from their configs for each training.
        fit_args: Dict of arguments of `fit`.
        num_members: int, N.
        tolerance: float, relative to the movement; the optimizer's state relative to the largest number of a kind, losses
            and metrics to their own size.
        roundings: float, how far beyond the tolerance rounding may lead: times what a change of the last bits of the
            initial weights makes at most, in any weight, or any state of a kind. More than once, because rounding comes in
            at every step; 0 allows nothing.
        seed: int, of the members' initial weights.
        check_state: Whether the optimizers' state is compared, too.
        member_inputs: As for `pack`, where the data of the packed model has inputs of each member.

    Returns:
        The largest relative difference of a weight.

    Raises:
        AssertionError: Packed and single training differ, with the weight, the member and the size of the difference.
        UserWarning: They differ by more than the tolerance, and no more than rounding explains.
        ValueError: The model draws random numbers in training, so that two runs of it differ anyway.

    Example:

    ```python
    kmw.testing.assert_trains_alike(build, (x, y), {"optimizer": "adam", "loss": "mse"}, {"epochs": 3})
    ```
    """
    arguments = compile_args if callable(compile_args) else lambda i: compile_args
    fit_args = {"verbose": 0, **(fit_args or {}), "shuffle": False}
    members = _members(build, num_members, seed)
    solo, starts = members[0], [model.get_weights() for model in members]  # whose names are those of the packed model
    multi = pack(members, share="frozen", member_inputs=member_inputs, verify=False)

    def train_alone(i, start, anew):
        solo.set_weights(start)
        _prepare_alone(solo, arguments(i), anew or callable(compile_args))
        return _Single(solo, solo.fit(**_named(_data(data, i)), **fit_args))

    singles = [train_alone(i, start, anew=i == 0) for i, start in enumerate(starts)]
    multi.compile(**_fresh(arguments, num_members, callable(compile_args)))
    history = multi.fit(**_named(_data(data, None)), **fit_args)
    shaken = functools.cache(lambda: [train_alone(i, _shaken(start), anew=False) for i, start in enumerate(starts)])
    compare = _Comparison(singles, shaken, tolerance, roundings)
    largest = compare.weights(multi, starts)
    if check_state:
        compare.state(multi)
    compare.history(multi, history)
    compare.warn()
    return largest


class _Single:
    """What one model's training ended with."""

    def __init__(self, model, history):
        self.names = [w.path for w in model.weights]
        self.weights = model.get_weights()
        own = state_variables(model.optimizer)
        self.state_names = [v.path for v in own]
        self.state = [ops.convert_to_numpy(v) for v in own]
        self.history = {name: np.asarray(values) for name, values in history.history.items()}


def _members(build, num_members, seed):
    """A model of each member, with initial weights of its own."""
    models = []
    for i in range(num_members):
        keras.utils.set_random_seed(seed + i)
        models.append(build())
    if draws_in_training(models[0]):
        raise ValueError("Trainings can be compared only without dropout and noise. Received: a model that draws.")
    return models


def _prepare_alone(model, arguments, anew):
    """Compile a model; or, where that was done with the same arguments, have its optimizer begin again, to trace once."""
    if anew:
        alone = {
            "optimizer": fresh_copy(keras.optimizers.get(arguments.get("optimizer", "rmsprop"))),
            "steps_per_execution": 1,
        }
        model.compile(**{**arguments, **alone})  # not every backend runs several steps of one model
        return model.optimizer.build(model.trainable_variables)  # or TensorFlow traces the first step twice
    fresh = fresh_copy(keras.optimizers.get(arguments.get("optimizer", "rmsprop")))  # whose rate no callback has changed
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):  # as Keras makes of it in half precision
        fresh = with_loss_scale(fresh)
    fresh.build(model.trainable_variables)
    for variable, value in zip(model.optimizer.variables, fresh.variables, strict=True):
        variable.assign(value)


def _fresh(arguments, num_members, one_each):
    first = arguments(0)
    if not one_each:
        return {**first, "optimizer": fresh_copy(keras.optimizers.get(first.get("optimizer", "rmsprop")))}
    return {**first, "optimizer": [fresh_copy(keras.optimizers.get(arguments(i)["optimizer"])) for i in range(num_members)]}


def _data(data, i):
    """The data of member `i`, or, for None, of the packed model."""
    return data(i) if callable(data) else data


def _named(data):
    return dict(zip(("x", "y", "sample_weight"), data))


def _shaken(start):
    """Initial weights with the last bit of each number changed, up or down."""
    rng = np.random.default_rng(0)

    def shake(w):
        return np.nextafter(w, rng.choice(np.array([-np.inf, np.inf], w.dtype), w.shape))

    return [shake(w) if w.dtype.name in ("float32", "float64") else w for w in start]


class _Comparison:
    """Of what a packed training ended with and what the members' own did.

    Args:
        singles: The `_Single` of each member.
        shaken: Function that gives the same after a change of the initial weights in their last bits.
        tolerance, roundings: floats.
    """

    def __init__(self, singles, shaken, tolerance, roundings):
        self.singles, self.shaken, self.tolerance, self.roundings = singles, shaken, tolerance, roundings
        self.beyond = []  # what only rounding explains

    def weights(self, multi, starts):
        """The largest difference, relative to the largest movement of a weight."""
        moved = [np.abs(a - b).max(initial=0.0) for x, start in zip(self.singles, starts) for a, b in zip(x.weights, start)]
        if not max(moved):
            raise AssertionError("Training must move the weights. Received: no movement.")
        found = [multi.member_weights(i) for i in range(len(self.singles))]
        return self._each_member(found, lambda x: x.weights, lambda x: x.names, "weight", lambda name: max(moved))

    def state(self, multi):
        """Relative to the largest number of a kind: the momentum of a weight that hardly moves is of no account either."""
        found = [multi.optimizer.member_state(i) for i in range(len(self.singles))]
        pairs = [pair for x in self.singles for pair in zip(x.state_names, x.state, strict=True)]
        sizes = {
            kind: max(_size(v) for name, v in pairs if _kind(name) == kind) for kind in {_kind(name) for name, _ in pairs}
        }
        self._each_member(found, lambda x: x.state, lambda x: x.state_names, "optimizer variable", lambda n: sizes[_kind(n)])

    def _each_member(self, found, values, names, kind, scale):
        """Compare lists of arrays, one list a member; returns the largest difference."""
        largest = 0.0
        for i, single in enumerate(self.singles):
            for name, received, expected in zip(names(single), found[i], values(single), strict=True):
                rounding = functools.partial(self._rounding, values, names, scale, name)
                what = f"{kind} '{name}' of member {i}"
                largest = max(largest, self._check(received, expected, scale(name), what, rounding))
        return largest

    def _rounding(self, values, names, scale, name):
        """How far a change of last bits leads, at most, of all arrays that have the scale of one: of a few numbers chance
        says little.
        """
        pairs = zip(self.shaken(), self.singles, strict=True)
        triples = (triple for other, single in pairs for triple in zip(names(single), values(other), values(single)))
        return max(_difference(a, b, scale(n), n) for n, a, b in triples if scale(n) == scale(name))

    def history(self, multi, history):
        for name in self.singles[0].history:
            expected, size = _columns(self.singles, name), _size(_columns(self.singles, name))
            rounding = functools.partial(self._rounding_of_history, name, expected, size)
            if name in multi.member_history:  # and no number that a callback put into the logs
                self._check(multi.member_history[name], expected, size, f"history of '{name}'", rounding)
            self._check(np.asarray(history.history[name]), expected.mean(axis=1), size, f"mean of '{name}'", rounding)

    def _rounding_of_history(self, name, expected, size):
        return _difference(_columns(self.shaken(), name), expected, size, name)

    def _check(self, received, expected, scale, what, rounding):
        error = _difference(received, expected, scale, what)
        if error <= self.tolerance:
            return error
        rounding = rounding() if self.roundings else 0.0
        found = f"{what}: packed and single training differ by {error:.3g} (tolerance {self.tolerance:.3g}"
        if not error <= self.roundings * rounding:
            more = f"; the last bits of the initial weights make {rounding:.3g}" if self.roundings else ""
            raise AssertionError(f"{found}{more}).")
        self.beyond.append((error, f"{found}). The last bits of the initial weights make {rounding:.3g}."))
        return error

    def warn(self):
        """Say what differed by more than the tolerance."""
        if self.beyond:
            warnings.warn(
                f"{max(self.beyond)[1]} In float32 this training cannot show that small errors are absent: compare it in "
                "float64, with roundings=0.",
                stacklevel=stack_level(),
            )


def _kind(name):
    """`momentum` of `adam/dense_kernel_momentum`."""
    return name.split("_")[-1]


def _columns(singles, name):
    """The history of one loss or metric of all members, (epochs, N)."""
    return np.stack([single.history[name] for single in singles], axis=1)


def _size(values):
    return max(np.abs(values).max(initial=0.0), 1e-6)


def _difference(received, expected, scale, what):
    received, expected = np.asarray(received), np.asarray(expected)
    if received.shape != expected.shape:
        raise AssertionError(f"{what}: shape {received.shape} packed and {expected.shape} alone.")
    return np.abs(received.astype("float64") - expected.astype("float64")).max(initial=0.0) / scale
