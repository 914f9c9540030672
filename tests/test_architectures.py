"""Real architectures: three members with random weights and random normalisation statistics, packed and alone."""

import inspect

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k
from keras import ops, tree

import keras_multiweight as kmw
from keras_multiweight.copies import all_layers

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
    "NASNetMobile",
)  # what the rest is made of, by default on demand
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
