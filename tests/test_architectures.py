"""Real architectures: three members with random weights and random normalisation statistics, packed and alone."""

import inspect

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k
from keras import ops, tree

import keras_multiweight as kmw
from keras_multiweight.copies import adapted_layers, all_layers

DEPTHWISE = (k.DepthwiseConv2D, k.SeparableConv2D)
MEMBERS, ROWS = 3, 4
APPLICATIONS = {
    name: build
    for name, build in inspect.getmembers(keras.applications, inspect.isfunction)
    if "weights" in inspect.signature(build).parameters
}
SMALLEST = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
FEW = (
    "ConvNeXtTiny",
    "EfficientNetB0",
    "MobileNetV3Small",
)  # in CI on one backend; all others on demand
TOLERANCE = 1e-4  # hundreds of layers one after another, each of which rounds to 6e-8


def trained(build, seed, x):
    """A model with random weights, whose signal neither dies nor grows on its way through hundreds of layers."""
    model = build()
    rng = np.random.default_rng(seed)
    depthwise = {id(layer.weights[0]) for layer in all_layers(model) if isinstance(layer, DEPTHWISE)}
    for weight in model.weights:
        shape = weight.shape
        if len(shape) > 1:
            inputs = np.prod(shape[:2] if id(weight) in depthwise else shape[:-1])
            weight.assign(rng.normal(0.0, np.sqrt(2 / inputs), shape))
        elif weight.name == "gamma" or "variance" in weight.name:
            weight.assign(rng.uniform(1.0, 2.0, shape))
        else:
            weight.assign(rng.normal(0.0, 0.1, shape))
    for layer in adapted_layers(model):
        layer.finalize_state()  # which computes with constants made from its weights
    take_statistics(model, x)
    for layer in all_layers(model):
        if isinstance(layer, k.BatchNormalization):
            mean, variance = ops.convert_to_numpy(layer.moving_mean), ops.convert_to_numpy(layer.moving_variance)
            layer.moving_mean.assign(mean + 0.1 * rng.normal(size=mean.shape) * np.sqrt(variance))
            layer.moving_variance.assign((variance + 0.5 * variance.mean()) * rng.uniform(0.5, 1.5, variance.shape))
    return model


def take_statistics(model, x):
    """Let the moving statistics of every batch normalisation be those of one batch."""
    layers = [layer for layer in all_layers(model) if isinstance(layer, k.BatchNormalization)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    if layers:
        model(x, training=True)
    for layer, momentum in zip(layers, momenta):
        layer.momentum = momentum


def largest_difference(build, x, seed=0):
    """Between the pack of three members and each alone, relative to the largest number of its outputs."""
    models = [trained(build, seed + i, x) for i in range(MEMBERS)]
    packed, errors = tree.flatten(kmw.pack(models, verify=False).predict(x)), []
    for i, model in enumerate(models):
        for received, wanted in zip(packed, tree.flatten(model.predict_on_batch(x)), strict=True):
            assert np.ptp(wanted, axis=0).max() > 1e-3 * np.abs(wanted).max(), "the answer must depend on the input"
            errors.append(oracle.relative_error(received[:, i], wanted))
    return max(errors)


def images(shape):
    """Noise on colours that differ from row to row: noise alone looks the same to a network that averages it."""
    rng = np.random.default_rng(0)
    return np.clip(rng.uniform(0, 255, (ROWS, 1, 1, shape[-1])) + rng.normal(0, 60, (ROWS, *shape)), 0, 255).astype(
        "float32"
    )


def application(name):
    """How to build it, and some images."""
    shape = (SMALLEST.get(name, 32),) * 2 + (3,)
    options = {"weights": None, "classes": 10, "classifier_activation": None}
    return lambda: APPLICATIONS[name](input_shape=shape, **options), images(shape)


@pytest.mark.applications
@pytest.mark.parametrize("name", APPLICATIONS)
def test_an_application_packs(name):
    keras.utils.clear_session()
    assert largest_difference(*application(name)) < TOLERANCE


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="in CI on one backend; elsewhere with -m applications")
@pytest.mark.filterwarnings("ignore:.*has no rule of its own")
@pytest.mark.parametrize("name", FEW)
def test_a_small_application_packs(name):
    test_an_application_packs(name)


# ---- small ones of other kinds ----


def text_encoder():
    """A Transformer encoder: masks, positions, attention, two heads on one trunk."""
    ids = keras.Input((None,), dtype="int32")
    x = k.Embedding(13, 8, mask_zero=True)(ids)
    x = x + k.Embedding(10, 8)(ops.cumsum(ops.ones_like(ids), axis=1) - 1)
    for _ in range(2):
        y = k.MultiHeadAttention(2, 4, dropout=0.1)(x, x)
        x = k.LayerNormalization()(x + k.Dropout(0.1)(y))
        y = k.Dense(8)(k.Dense(16, activation="gelu")(x))
        x = k.LayerNormalization()(x + y)
    pooled = k.GlobalAveragePooling1D()(x, mask=ops.not_equal(ids, 0))
    return keras.Model(ids, {"class": k.Dense(3, activation="softmax")(pooled), "tokens": k.Dense(13)(x)})


def tagger():
    ids = keras.Input((9,), dtype="int32")
    x = k.Embedding(13, 6, mask_zero=True)(ids)
    x = k.Bidirectional(k.LSTM(5, return_sequences=True, dropout=0.1))(x)
    x = k.Bidirectional(k.LSTM(4, return_sequences=True), merge_mode="sum")(x)
    return keras.Model(ids, k.TimeDistributed(k.Dense(4, activation="softmax"))(x))


def causal_language_model():
    """Grouped queries, a causal mask, a gated feed-forward, and one table of tokens for the way in and out."""
    ids, table = keras.Input((7,), dtype="int32"), k.ReversibleEmbedding(13, 8)
    x = table(ids)
    for _ in range(2):
        y = k.RMSNormalization()(x)
        x = x + k.GroupQueryAttention(4, 4, 2)(y, y, use_causal_mask=True)
        y = k.RMSNormalization()(x)
        x = x + k.Dense(8)(k.Dense(16, activation="silu")(y) * k.Dense(16)(y))
    return keras.Model(ids, table(k.RMSNormalization()(x), reverse=True))


def u_net():
    inputs = x = keras.Input((16, 16, 2))
    skips = []
    for filters in (3, 4):
        x = k.ReLU()(k.BatchNormalization()(k.Conv2D(filters, 3, padding="same", use_bias=False)(x)))
        skips.append(x)
        x = k.MaxPooling2D()(x)
    x = k.Conv2D(5, 3, padding="same", activation="relu")(x)
    for filters, skip in zip((4, 3), reversed(skips)):
        x = k.Concatenate()([k.Conv2DTranspose(filters, 2, strides=2)(x), skip])
        x = k.SpatialDropout2D(0.1)(k.Conv2D(filters, 3, padding="same", activation="relu")(x))
    return keras.Model(inputs, k.Conv2D(1, 1, activation="sigmoid")(x))


def autoencoder():
    """Two models in one; the code is an output too."""
    image, code = keras.Input((12, 12, 1)), keras.Input((4,))
    x = k.Conv2D(3, 3, strides=2, padding="same", activation="relu")(image)
    encoder = keras.Model(image, k.Dense(4)(k.Flatten()(k.Conv2D(4, 3, strides=2, padding="same", activation="relu")(x))))
    x = k.Reshape((3, 3, 4))(k.Dense(36, activation="relu")(code))
    x = k.Conv2DTranspose(3, 3, strides=2, padding="same", activation="relu")(x)
    decoder = keras.Model(code, k.Conv2DTranspose(1, 3, strides=2, padding="same", activation="sigmoid")(x))
    inputs = keras.Input((12, 12, 1))
    return keras.Model(inputs, [decoder(encoder(inputs)), encoder(inputs)])


def video():
    inputs = keras.Input((3, 8, 8, 1))
    x = k.ConvLSTM2D(3, 3, padding="same", return_sequences=True)(inputs)
    x = k.ConvLSTM2D(2, 3, padding="same")(k.BatchNormalization()(x))
    return keras.Model(inputs, k.Conv2D(1, 1, activation="sigmoid")(x))


MANY_STEPS = [pytest.param(build, marks=pytest.mark.slow) for build in (tagger, video)]


@pytest.mark.parametrize("build", [text_encoder, causal_language_model, u_net, autoencoder, *MANY_STEPS])
def test_a_small_architecture_packs_saves_and_comes_out_again(build, tmp_path):
    keras.utils.clear_session()
    models = oracle.members(build, MEMBERS)
    rng, shape = np.random.default_rng(0), [d or 9 for d in models[0].input.shape[1:]]
    x = (
        rng.integers(0, 13, (7, *shape))
        if "int" in models[0].input.dtype
        else rng.normal(size=(7, *shape)).astype("float32")
    )
    expected = oracle.stacked_predictions(oracle.each_in(models[0], models), x, 3)
    multi = kmw.pack(models)
    multi.save(tmp_path / "packed.keras")
    for packed in (multi, keras.models.load_model(tmp_path / "packed.keras")):
        for received, wanted in zip(tree.flatten(packed.predict(x, batch_size=3)), expected, strict=True):
            oracle.assert_close(received, wanted)
    for before, after in zip(models[1].get_weights(), multi.member(1).get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
