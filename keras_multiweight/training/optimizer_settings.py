"""What Keras optimizers say of themselves: which can be updated as one, how their rates go, whether they scale losses."""

import keras
from keras import ops

from keras_multiweight.training.lowerings import keras_class
from keras_multiweight.training.updates import BARE

MAY_DIFFER = ("name", "learning_rate", "weight_decay", *BARE)


def kind(optimizer):
    """What optimizers that are updated as one must have in common."""
    config = {key: value for key, value in optimizer.get_config().items() if key not in MAY_DIFFER}
    is_dense = bool(optimizer.global_clipnorm)  # on TensorFlow it makes sparse gradients dense, which then count otherwise
    return keras_class(optimizer), repr(sorted(config.items())), optimizer.weight_decay is None, is_dense


def schedule(optimizer):
    """The function of the step that an optimizer's learning rate is, or None."""
    if isinstance(optimizer.learning_rate, keras.Variable):
        return None

    def at(step):
        with keras.StatelessScope([(optimizer.iterations, ops.convert_to_tensor(step))]):
            return optimizer.learning_rate

    return at


def with_loss_scale(optimizers):
    """Optimizers with dynamic loss scaling, as Keras gives them to models in half precision."""
    if isinstance(optimizers, (list, tuple)):
        return [with_loss_scale(optimizer) for optimizer in optimizers]
    optimizer = keras.optimizers.get(optimizers)
    scaling = keras.optimizers.LossScaleOptimizer
    return optimizer if isinstance(optimizer, scaling) else scaling(optimizer)
