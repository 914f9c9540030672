"""Models, data and optimizers for the equality of packed and single training."""

import contextlib

import keras
import numpy as np
from keras import layers as k

ROWS = 24


@contextlib.contextmanager
def float64():
    """A scope in which models compute in float64. On torch Keras's products are float32 even then."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    _enable_x64(True)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")  # which `set_floatx` leaves as it is once a layer was made
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])
        _enable_x64(False)


def _enable_x64(is_on):
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", is_on)


def _rng():
    return np.random.default_rng(0)


def mlp():
    x = keras.Input((4,))
    h = k.Dense(6, activation="tanh", kernel_regularizer="l2", activity_regularizer="l1")(x)
    return keras.Model(x, k.Dense(3, activation="softmax", kernel_constraint="max_norm")(h))


def cnn():  # a bias before a normalisation has no gradient but rounding, nor has one of attention keys
    x = keras.Input((6, 6, 2))
    h = k.ReLU()(k.BatchNormalization()(k.Conv2D(4, 3, use_bias=False)(x)))  # a bias here would have no gradient but noise
    h = k.GlobalAveragePooling2D()(k.Conv2D(5, 2, activation="relu")(h))
    return keras.Model(x, k.Dense(3, activation="softmax")(h))


def text():
    x = keras.Input((6,), dtype="int32")
    h = k.LSTM(5)(k.Embedding(7, 4, mask_zero=True)(x))
    return keras.Model(x, k.Dense(3, activation="softmax")(h))


def transformer():
    x = keras.Input((6,), dtype="int32")
    h = k.Embedding(7, 8)(x)
    h = k.LayerNormalization()(h + k.MultiHeadAttention(2, 4, use_bias=False)(h, h))
    h = k.LayerNormalization()(h + k.Dense(8)(k.Dense(12, activation="gelu")(h)))
    return keras.Model(x, k.Dense(3, activation="softmax")(k.GlobalAveragePooling1D()(h)))


def _numbers(rows):
    return _rng().normal(size=(rows, 4)).astype("float32")


def _images(rows):
    return _rng().normal(size=(rows, 6, 6, 2)).astype("float32")


def _tokens(rows):
    tokens = _rng().integers(1, 7, size=(rows, 6)).astype("int32")  # 7 words in 6 places: many come twice
    tokens[:, 4:] *= _rng().integers(0, 2, size=(rows, 2)).astype("int32")  # 0 is masked
    return tokens


INPUTS = {mlp: _numbers, cnn: _images, text: _tokens, transformer: _tokens}
MODELS = {build.__name__: build for build in INPUTS}


def has_float64(build, arguments):
    """Whether Keras trains a model alone in float64. Even then it computes products on torch in float32, and attention and
    LayerNormalization on JAX; on TensorFlow Muon's step multiplies a rate of float32, which a schedule gives, and raises.
    """
    if keras.backend.backend() == "torch" or (keras.backend.backend() == "jax" and build is transformer):
        return False
    with float64():
        model = build()
        model.compile(**arguments)
        try:
            model.train_on_batch(*data(build))
        except TypeError:
            return False
    return True


def data(build, rows=ROWS):
    return INPUTS[build](rows), _rng().integers(0, 3, size=rows)


def optimizer(name, **options):
    return lambda: getattr(keras.optimizers, name)(**{"learning_rate": RATES.get(name, 0.01), **options})


def _schedule():
    return keras.optimizers.schedules.CosineDecay(0.01, 40)


RATES = {"SGD": 0.1, "Adadelta": 1.0, "Ftrl": 0.1, "Lion": 0.001}
NAMES = [
    *("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lamb", "Lion", "Muon", "Nadam", "RMSprop"),
    *("SGD", "ScheduleFreeAdamW"),
]
OPTIONS = {
    "default": {},
    "clipnorm": {"clipnorm": 0.05},
    "global_clipnorm": {"global_clipnorm": 0.1},
    "clipvalue": {"clipvalue": 0.01},
    "weight_decay": {"weight_decay": 0.1},
    "use_ema": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 7},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 3},
}
OPTIMIZERS = {f"{name}-{kind}": optimizer(name, **options) for name in NAMES for kind, options in OPTIONS.items()} | {
    f"{name}-schedule": lambda name=name: optimizer(name, learning_rate=_schedule())() for name in NAMES
}


def mixed(i):
    """The optimizer of member `i`: classes, rates, schedules, decays and clipping that differ."""
    makers = [
        lambda: keras.optimizers.Adam(0.01, clipnorm=0.1),
        lambda: keras.optimizers.Adam(0.003, weight_decay=0.1),
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        lambda: keras.optimizers.Adam(_schedule(), global_clipnorm=0.2),
        lambda: keras.optimizers.RMSprop(0.005, clipvalue=0.02),
        lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    ]
    return makers[i % len(makers)]()
