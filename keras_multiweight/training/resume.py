"""Compiled members in, compiled members out: a training that began alone goes on packed, and the other way round."""

import contextlib

import keras
from keras import ops, tree

from keras_multiweight.training.updates import fresh_copy

OF_THE_PROCESS = ("optimizer", "jit_compile", "run_eagerly", "steps_per_execution", "auto_scale_loss")


def compile_like(multi, models, custom_objects=None):
    """Compile a packed model as its members are compiled, and take their optimizers' state along.

    Args:
        multi: A `MultiModel`.
        models: Its members, compiled Keras models that have taken equally many steps.
        custom_objects: Dict of names to custom losses and metrics that are not registered.

    Raises:
        ValueError: A member is not compiled, is compiled with other losses or metrics than the first, or has taken more
            steps or fewer.
    """
    optimizers = [_optimizer(model, i) for i, model in enumerate(models)]
    arguments = _common_arguments(models)
    with keras.saving.CustomObjectScope(custom_objects) if custom_objects else contextlib.nullcontext():
        arguments = keras.saving.deserialize_keras_object(arguments)
    alike = all(o.get_config() == optimizers[0].get_config() and type(o) is type(optimizers[0]) for o in optimizers)
    multi.compile(optimizers[0] if alike else optimizers, auto_scale_loss=False, **arguments)
    multi.optimizer.build(multi.trainable_variables)
    if any(optimizer.built for optimizer in optimizers):
        states = [[ops.convert_to_numpy(v) for v in state_variables(optimizer)] for optimizer in optimizers]
        _check_steps([int(state[0]) for state in states])
        for i, state in enumerate(states):
            multi.optimizer.set_member_state(i, state)


def _optimizer(model, i):
    if getattr(model, "optimizer", None) is None or not model.compiled:
        raise ValueError(
            "optimizer=True takes compiled models with an optimizer. Received: member "
            f"{i}, '{getattr(model, 'name', model)}', which has none. Compile it, or pack without optimizer=True."
        )
    return model.optimizer


def _common_arguments(models):
    """The compile arguments of all members, serialised, without those of optimizers."""
    every = [_arguments(model) for model in models]
    for i, arguments in enumerate(every):
        for key, value in arguments.items():
            if value != every[0].get(key):
                raise ValueError(
                    f"The members must be compiled with equal losses and metrics. Received: {key}={every[0].get(key)!r} in "
                    f"member 0 and {key}={value!r} in member {i}."
                )
    return every[0]


def _arguments(model):
    return {key: value for key, value in model.get_compile_config().items() if key not in OF_THE_PROCESS}


def _check_steps(steps):
    if len(set(steps)) > 1:
        raise ValueError(
            f"Members that train on together must have taken equally many steps. Received: {steps} steps, in the order of "
            "the members. Pack without optimizer=True."
        )


def state_variables(optimizer):
    """The variables of one model's optimizer: steps, averages, accumulators, its own; last those of dynamic loss scaling."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    scales = [] if inner is optimizer else [optimizer.step_counter, optimizer.dynamic_scale]
    return [v for v in inner.variables if v is not inner.learning_rate] + scales


def compile_alone(model, multi, i):
    """Compile member `i` of a packed model, an ordinary Keras model, with the state of its optimizer."""
    optimizer = fresh_copy(multi.optimizer.member_optimizer(i))
    model.compile(optimizer, auto_scale_loss=False, **loss_arguments(multi))
    optimizer.build(model.trainable_variables)
    for variable, value in zip(state_variables(optimizer), multi.optimizer.member_state(i), strict=True):
        variable.assign(value)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(inner.learning_rate, keras.Variable):
        inner.learning_rate = ops.convert_to_numpy(multi.optimizer.member_learning_rates)[i]


def loss_arguments(multi):
    """The losses and metrics that a packed model was compiled with, as arguments of another model's `compile`."""
    given = multi.compile_arguments()
    left_out = (*OF_THE_PROCESS, "member_targets", "member_weights")
    return tree.map_structure(_fresh, {key: value for key, value in given.items() if key not in left_out})


def _fresh(x):
    """Losses and metrics have a state or a name of their own model."""
    is_object = isinstance(x, (keras.losses.Loss, keras.metrics.Metric))
    return type(x).from_config(x.get_config()) if is_object else x
