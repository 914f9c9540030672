"""Graphs: several inputs and outputs, layers used again, nested models, raw operations."""

import keras
from keras import layers as k
from keras import ops

from cases.building import case


@case
def two_inputs_three_outputs():
    a, b = keras.Input((3,), name="a"), keras.Input((4, 2), name="b")
    x = k.Concatenate()([k.Dense(4)(a), k.Flatten()(b)])
    return keras.Model([a, b], [k.Dense(1)(x), [k.Dense(2)(x), a]])


@case
def dictionaries():
    inputs = {"left": keras.Input((3,), name="left"), "right": keras.Input((3,), name="right")}
    x = k.Dense(4, activation="relu")(inputs["left"]) - k.Dense(4)(inputs["right"])
    return keras.Model(inputs, {"class": k.Dense(3, activation="softmax")(x), "value": k.Dense(1)(x)})


@case
def reused_layer():
    a, b = keras.Input((4,)), keras.Input((4,))
    layer = k.Dense(4, activation="tanh")
    return keras.Model([a, b], [layer(layer(a)), layer(b)])


@case
def reused_convolution():
    inputs = keras.Input((7, 7, 2))
    layer, norm = k.Conv2D(2, 3, padding="same"), k.BatchNormalization()
    return keras.Model(inputs, norm(layer(norm(layer(inputs)))))


@case
def nested_models():
    inner = keras.Sequential([keras.Input((4,)), k.Dense(4, activation="relu"), k.LayerNormalization()])
    a = keras.Input((4,))
    middle = keras.Model(a, [inner(k.Dense(4)(a)), a * 2.0])
    x, y = keras.Input((4,)), keras.Input((4,))
    p, q = middle(x), middle(inner(y))
    return keras.Model([x, y], k.Concatenate()([p[0], p[1], q[0], q[1]]))


@case
def sequential():
    return keras.Sequential([keras.Input((4,)), k.Dense(5, activation="relu"), k.Dropout(0.2), k.Dense(2)])


@case
def sequential_without_input():
    model = keras.Sequential([k.Dense(5, activation="relu"), k.Dense(2)])
    model.build((None, 4))
    return model


@case
def softmax_over_five_axes():
    inputs = keras.Input((2, 3, 2, 4))
    x = k.Dense(3)(inputs)
    return keras.Model(inputs, [ops.softmax(x), ops.softmax(x, axis=2), ops.log_softmax(x)])


@case
def raw_operations():
    inputs = keras.Input((6, 4))
    x = k.Dense(4)(inputs)
    y = ops.relu(x) * 2.0 + ops.ones((4,)) - inputs
    y = ops.concatenate([y[:, 2:, ::2], ops.transpose(x, (0, 2, 1))[..., :3]], axis=-1)
    total = ops.sum(y, axis=1, keepdims=True)
    picked = ops.einsum("bij,bkj->bik", y, total) / ops.sqrt(1.0 + ops.square(y[:, :, :1]))
    return keras.Model(inputs, [ops.softmax(picked, axis=1), ops.reshape(y, (-1, 20)), ops.mean(x, axis=(1, 2))])


@case
def operations_over_the_batch():
    """Each member's rows meet only rows of the same member, also where an operation mixes rows."""
    inputs = keras.Input((4,))
    x = k.Dense(4)(inputs)
    return keras.Model(inputs, ops.maximum(x, ops.stop_gradient(inputs)) + ops.flip(x, axis=1))


@keras.saving.register_keras_serializable("tests")
class Positions(k.Layer):
    """A learned table of positions, without a batch axis: (T, C), or (1, T, C)."""

    def __init__(self, lead=False, **kwargs):
        super().__init__(**kwargs)
        self.lead = lead

    def build(self, input_shape):
        self.table = self.add_weight(shape=(*([1] if self.lead else []), *input_shape[1:]), initializer="normal")

    def call(self, x):
        return self.table * 1.0

    def get_config(self):
        return {**super().get_config(), "lead": self.lead}


@case
def learned_positions():
    inputs = keras.Input((4, 3))
    x = k.Dropout(0.1)(k.ReLU()(k.Dense(5)(inputs)))
    y = x + Positions()(x)
    return keras.Model(inputs, [k.Add()([y, Positions(lead=True)(y)]), y + Positions(lead=True)(y)])


@case
def operations_that_join_ranks():
    inputs = keras.Input((4, 3))
    x, y = k.Dense(5)(inputs), k.ReLU()(k.Dense(5)(inputs))
    centered = y - ops.mean(y, axis=0, keepdims=True)
    return keras.Model(inputs, [centered, x - ops.mean(y, axis=0), ops.where(x[:, :1] > 0, y[:, 0][:, None], 0.0)])


@case
def operations_on_channels():
    inputs = keras.Input((6, 6, 2))
    x = k.Conv2D(3, 3)(inputs)
    y = ops.sigmoid(x) * x + 1.0
    y = y * ops.convert_to_tensor([1.0, 2.0, 3.0])
    return keras.Model(inputs, k.Conv2D(2, 3)(y) + ops.mean(inputs, axis=(1, 2, 3), keepdims=True))


@case
def explicit_training_flags():
    inputs = keras.Input((4,))
    x = k.BatchNormalization()(k.Dense(5)(inputs), training=False)
    return keras.Model(inputs, k.Dense(2)(k.Dropout(0.5)(x, training=False)))


@case
def channels_first():
    inputs = keras.Input((2, 7, 6))
    x = k.ZeroPadding2D(1, data_format="channels_first")(inputs)
    x = k.Permute((2, 3, 1))(x)
    return keras.Model(inputs, k.Permute((3, 1, 2))(k.Conv2D(3, 3)(x)))


@case
def frozen_layer():
    model = keras.Sequential([keras.Input((4,)), k.Dense(5, name="frozen"), k.BatchNormalization(), k.Dense(2)])
    model.get_layer("frozen").trainable = False
    return model


@case
def layers_that_need_no_member():
    inputs = keras.Input((4,))
    return keras.Model(inputs, k.Dense(3)(k.Reshape((2, 2))(k.Rescaling(2.0)(ops.abs(inputs)))))
