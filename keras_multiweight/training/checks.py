"""What cannot train as it would alone is refused, by name."""

import keras

from keras_multiweight.training.updates import said_later

COMMON = ("use_ema", "ema_momentum", "ema_overwrite_frequency", "gradient_accumulation_steps", "loss_scale_factor")
OWN_WAYS = ("fit", "train_step", "test_step", "compute_loss", "compute_metrics")


def check_trains_as_keras(cls):
    """Raise a ValueError where a model's class has a way of its own to train, which a packed model would not follow."""
    found = [name for name in OWN_WAYS if _is_own(getattr(cls, name), name)]
    if found:
        raise ValueError(
            f"Members are trained by Keras's own steps. Received: models of class {cls.__name__}, which has its own "
            f"{', '.join(found)}. Say the loss by compile(loss=...), by add_loss in a layer or in the model's call, or by "
            "regularisers; or train such models one by one, and pack them to predict."
        )


def _is_own(method, name):
    """Whether a method is a user's: Keras gives its classes another `train_step` on each backend."""
    return method is not getattr(keras.Model, name) and not getattr(method, "__module__", "").startswith("keras.")


def checked_optimizers(optimizers, num_members):
    """One optimizer a member, whose settings allow one graph."""
    if not isinstance(optimizers, (list, tuple)):
        optimizers = [keras.optimizers.get(optimizers)] * num_members
        _refuse(optimizers)
        return optimizers
    found = [keras.optimizers.get(o) for o in optimizers]
    _refuse(found)
    if len(found) != num_members:
        raise ValueError(f"A list of optimizers must have one a member, {num_members}. Received: {len(found)}.")
    if len({id(o) for o in found}) < len(found):
        raise ValueError("A list of optimizers must have one of its own for each member. Received: the same object twice.")
    for key in COMMON:
        values = [getattr(o, "inner_optimizer", o).get_config().get(key) for o in found]
        if any(value != values[0] for value in values):
            raise ValueError(f"The optimizers of all members must have equal {key}. Received: {values}.")
    if len({isinstance(o, keras.optimizers.LossScaleOptimizer) for o in found}) > 1:
        raise ValueError("The optimizers of all members must be LossScaleOptimizers, or none. Received: both.")
    return found


def _refuse(optimizers):
    """Optimizers that know variables of another model than a member; and those that compute otherwise alone.

    Keras's ScheduleFreeAdamW keeps a reference where it needs a copy: where arrays change in place it computes something
    else than on JAX, which cannot be repeated for many members.
    """
    inner = [getattr(o, "inner_optimizer", o) for o in {id(o): o for o in optimizers}.values()]
    if any(isinstance(told, set) and told for o in inner for told in said_later(o).values()):
        raise ValueError(
            "What an optimizer leaves out of weight decay must be said by names, which weights have alone and packed. "
            "Received: exclude_from_weight_decay(var_list=...). Give var_names=[...]."
        )
    is_schedule_free = any(isinstance(o, keras.optimizers.ScheduleFreeAdamW) for o in optimizers)
    if is_schedule_free and keras.backend.backend() != "jax":
        raise ValueError(
            "ScheduleFreeAdamW trains members as they train alone on JAX only, because Keras's own computes differently on "
            f"backends that change arrays in place. Received: backend '{keras.backend.backend()}'."
        )
