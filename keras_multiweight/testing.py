"""Does a packed training end where the members' own trainings end? `assert_trains_alike` answers for any model."""

import keras
import numpy as np
from keras import ops

from keras_multiweight.packing.pack import pack


def assert_trains_alike(
    build, data, compile_args, fit_args=None, *, num_members=3, tolerance=1e-5, seed=0, check_state=True, member_inputs=False
):
    """Train N models one after another, and the same N packed, and compare weights, optimizer state and history.

    A weight whose gradient is nothing but rounding, such as a bias before a normalisation, moves at random under an
    optimizer that normalises gradients; compare models without such weights.

    All see the same batches in the same order (`shuffle=False`). Weights may differ by `tolerance` times the largest
    movement of a weight in training, so that a member that hardly moved is not called equal for that.

    Args:
        build: Function without arguments that builds a model. Its initial weights are drawn after
            `keras.utils.set_random_seed`, with a seed of its own for each member.
        data: Tuple `(x, y)` or `(x, y, sample_weight)` of arrays as `MultiModel.fit` takes them, or a function of a
            member's number that gives them as one model's `fit` takes them, and for `None` as the packed model's does.
        compile_args: Dict of arguments of `compile`; or a function of a member's number that gives them, for optimizers
            that differ from member to member. Optimizers are made anew from their configs for each training.
        fit_args: Dict of arguments of `fit`.
        num_members: int, N.
        tolerance: float, relative to the movement; losses and metrics relative to their own size.
        seed: int, of the members' initial weights.
        check_state: Whether the optimizers' state is compared, too.
        member_inputs: As for `pack`, where the data of the packed model has inputs of each member.

    Returns:
        The largest relative difference of a weight.

    Raises:
        AssertionError: Packed and single training differ, with the weight, the member and the size of the difference.
        ValueError: The model draws random numbers in training, so that two runs of it differ anyway.

    Example:

    ```python
    kmw.testing.assert_trains_alike(build, (x, y), {"optimizer": "adam", "loss": "mse"}, {"epochs": 3})
    ```
    """
    arguments = compile_args if callable(compile_args) else lambda i: compile_args
    fit_args = {"verbose": 0, **(fit_args or {}), "shuffle": False}
    solo, starts = _members(build, num_members, seed)
    singles = [_train_alone(solo, start, arguments(i), fit_args, _data(data, i)) for i, start in enumerate(starts)]
    multi = pack(_with_weights(build, starts), member_inputs=member_inputs, verify=False)
    multi.compile(**_fresh(arguments, num_members, callable(compile_args)))
    history = multi.fit(**_named(_data(data, None)), **fit_args)
    largest = _compare_weights(multi, starts, singles, tolerance)
    if check_state:
        _compare_state(multi, singles, tolerance)
    _compare_history(multi, history, singles, tolerance)
    return largest


class _Single:
    """What one model's training ended with."""

    def __init__(self, model, history):
        self.names = [w.path for w in model.weights]
        self.weights = model.get_weights()
        optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        self.state = [(v.path, ops.convert_to_numpy(v)) for v in optimizer.variables if v is not optimizer.learning_rate]
        self.history = {name: np.asarray(values) for name, values in history.history.items()}


def _members(build, num_members, seed):
    """A model to train, and the initial weights of each member."""
    starts = []
    for i in range(num_members):
        keras.utils.set_random_seed(seed + i)
        model = build()
        starts.append(model.get_weights())
    if any(getattr(layer, "rate", 0) or getattr(layer, "dropout", 0) for layer in model.layers):
        raise ValueError("Trainings can be compared only without dropout and noise. Received: a model that draws.")
    return model, starts


def _with_weights(build, starts):
    for start in starts:
        model = build()
        model.set_weights(start)
        yield model


def _train_alone(model, start, arguments, fit_args, data):
    model.set_weights(start)
    alone = {"optimizer": _copy(arguments.get("optimizer", "rmsprop")), "steps_per_execution": 1}
    model.compile(**{**arguments, **alone})  # not every backend runs several steps of one model
    return _Single(model, model.fit(**_named(data), **fit_args))


def _fresh(arguments, num_members, one_each):
    first = arguments(0)
    if not one_each:
        return {**first, "optimizer": _copy(first.get("optimizer", "rmsprop"))}
    return {**first, "optimizer": [_copy(arguments(i)["optimizer"]) for i in range(num_members)]}


def _copy(optimizer):
    """An unbuilt optimizer with the settings of another."""
    optimizer = keras.optimizers.get(optimizer)
    cls = next(cls for cls in type(optimizer).__mro__ if ".backend." not in cls.__module__)
    return cls.from_config(optimizer.get_config())


def _data(data, i):
    """The data of member `i`, or, for None, of the packed model."""
    return data(i) if callable(data) else data


def _named(data):
    return dict(zip(("x", "y", "sample_weight"), data))


def _compare_weights(multi, starts, singles, tolerance):
    largest = 0.0
    moved = [
        max(np.abs(single.weights[k] - start[k]).max(initial=0.0) for single, start in zip(singles, starts))
        for k in range(len(starts[0]))
    ]
    scale = max(moved)
    if not scale:
        raise AssertionError("Training must move the weights. Received: no movement.")
    for i, single in enumerate(singles):
        for name, received, expected in zip(single.names, multi.member_weights(i), single.weights, strict=True):
            error = _difference(received, expected, scale, f"weight '{name}' of member {i}", tolerance)
            largest = max(largest, error)
    return largest


def _compare_state(multi, singles, tolerance):
    for i, single in enumerate(singles):
        for received, (name, expected) in zip(multi.optimizer.member_state(i), single.state, strict=True):
            scale = max(np.abs(expected).max(initial=0.0), 1e-6)
            _difference(received, expected, scale, f"optimizer variable '{name}' of member {i}", 10 * tolerance)


def _compare_history(multi, history, singles, tolerance):
    for name in singles[0].history:
        every = np.stack([single.history[name] for single in singles], axis=1)  # (epochs, N)
        scale = max(np.abs(every).max(), 1e-6)
        _difference(multi.member_history[name], every, scale, f"history of '{name}'", 10 * tolerance)
        _difference(np.asarray(history.history[name]), every.mean(axis=1), scale, f"mean of '{name}'", 10 * tolerance)


def _difference(received, expected, scale, what, tolerance):
    received, expected = np.asarray(received), np.asarray(expected)
    if received.shape != expected.shape:
        raise AssertionError(f"{what}: shape {received.shape} packed and {expected.shape} alone.")
    error = np.abs(received.astype("float64") - expected.astype("float64")).max(initial=0.0) / scale
    if not error <= tolerance:
        raise AssertionError(f"{what}: packed and single training differ by {error:.3g} (tolerance {tolerance:.3g}).")
    return error
