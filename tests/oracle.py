"""The reference for everything: a loop over the members, one after another, and a stack of what they give."""

import keras
import numpy as np
from keras import ops, tree

from keras_multiweight.copies import adapted_layers, all_layers, set_all_weights

TOLERANCE = 1e-5  # relative to the largest number that is compared


def randomized(model, seed):
    """Give every weight of a model random values, biases and moving statistics too; counters stay."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "float" not in weight.dtype:
            continue
        noise = rng.normal(size=weight.shape)
        is_variance = "variance" in weight.name or "stddev" in weight.name
        weight.assign(0.5 + noise**2 if is_variance else ops.convert_to_numpy(weight) + 0.3 * noise)
    set_all_weights(model, model.get_weights())
    return model


def members(build, num_members=3):
    """N models of one architecture with random weights."""
    return [randomized(build(), seed) for seed in range(num_members)]


def stacked_predictions(models, x, batch_size):
    """What a loop over the members gives, `(B, N, ...)` for each output, as a flat list; `each_in` compiles one of them."""
    outputs = [predictions(model, x, batch_size) for model in models]
    return [np.stack(parts, axis=1) for parts in zip(*outputs)]


def predictions(model, x, batch_size):
    """What `predict` gives, as a flat list; of strings too, which `predict` takes from data sets only."""
    starts = range(0, len(tree.flatten(x)[0]), batch_size)
    batches = [tree.map_structure(lambda rows, at=at: rows[at : at + batch_size], x) for at in starts]
    return [np.concatenate(parts) for parts in zip(*(tree.flatten(model.predict_on_batch(batch)) for batch in batches))]


def each_in(model, models):
    """One model with each member's weights in turn: compiled once, where N models would be compiled N times."""
    own = model.get_weights()
    for weights in [other.get_weights() for other in models]:
        set_all_weights(model, weights)
        if adapted_layers(model):  # whose constants are in what is compiled
            model.make_predict_function(force=True)
        yield model
    set_all_weights(model, own)


class Gradients:
    """The gradient of `sum(outputs * weight_of_outputs)` for every trainable variable of a model, as NumPy arrays by id."""

    def __init__(self, model):
        self.model = model
        self._run = {"tensorflow": self._tensorflow, "jax": self._jax, "torch": self._torch}[keras.backend.backend()]
        self._compiled = None

    def __call__(self, x, weight_of_outputs):
        values = self._run(x, weight_of_outputs)
        variables = self.model.trainable_variables
        return {id(v): np.zeros(v.shape) if g is None else np.asarray(g) for v, g in zip(variables, values)}

    def _tensorflow(self, x, weight_of_outputs):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            total = _total(self.model(x, training=False), weight_of_outputs)
        found = tape.gradient(total, [v.value for v in self.model.trainable_variables])
        return [None if g is None else tf.convert_to_tensor(g).numpy() for g in found]

    def _jax(self, x, weight_of_outputs):
        import jax

        def total(trainable, fixed, x, weight_of_outputs):
            outputs, _ = self.model.stateless_call(trainable, fixed, x, training=False)
            return _total(outputs, weight_of_outputs)

        if self._compiled is None or adapted_layers(self.model):  # whose constants are in what is compiled
            jit = jax.jit if all(layer.supports_jit for layer in all_layers(self.model)) else lambda function: function
            self._compiled = jit(jax.grad(total))
        variables = self.model.trainable_variables, self.model.non_trainable_variables
        return self._compiled(*([v.value for v in group] for group in variables), x, weight_of_outputs)

    def _torch(self, x, weight_of_outputs):
        import torch

        total = _total(self.model(x, training=False), weight_of_outputs)
        parameters = [v.value for v in self.model.trainable_variables]
        if not total.requires_grad:
            return [None] * len(parameters)
        found = torch.autograd.grad(total, parameters, allow_unused=True)
        return [None if g is None else g.detach().cpu().numpy() for g in found]


def _total(outputs, weight_of_outputs):
    pairs = [pair for pair in zip(tree.flatten(outputs), weight_of_outputs) if "string" not in str(pair[0].dtype)]
    return sum(ops.sum(ops.multiply(ops.cast(y, "float32"), ops.convert_to_tensor(w))) for y, w in pairs)


def relative_error(received, expected, scale=None):
    """The largest difference, relative to the largest expected number, or to `scale`."""
    received, expected = np.asarray(received, "float64"), np.asarray(expected, "float64")
    assert received.shape == expected.shape, f"shape {received.shape} in place of {expected.shape}"
    scale = scale or max(np.abs(expected).max(initial=0.0), 1e-6)
    return np.abs(received - expected).max(initial=0.0) / scale


def assert_close(received, expected, what="", tolerance=TOLERANCE, scale=None):
    """Equal shapes, and equal numbers relative to the largest one, or to `scale`."""
    received, expected = np.asarray(received), np.asarray(expected)
    assert received.shape == expected.shape, f"{what}: shape {received.shape} in place of {expected.shape}"
    if expected.dtype == object:
        np.testing.assert_array_equal(received, expected, what)
        return
    error = relative_error(received, expected, scale)
    assert error <= tolerance, f"{what}: a relative difference of {error:.3g}"


def answers(model, x):
    """The outputs of a model that is called, not compiled, as NumPy arrays."""
    x = tree.map_structure(ops.convert_to_tensor, x)
    return [ops.convert_to_numpy(y) for y in tree.flatten(model(x, training=False))]


def assert_saves_the_same(multi, x, path):
    """A pack that is saved and loaded answers with the same bits and holds the same members. Gives the loaded one."""
    multi.save(path / "packed.keras")
    loaded = keras.models.load_model(path / "packed.keras")
    for before, after in zip(*(tree.flatten(model.predict(x)) for model in (multi, loaded)), strict=True):
        np.testing.assert_array_equal(before, after)
    for i in range(multi.num_members):
        for before, after in zip(multi.member_weights(i), loaded.member_weights(i), strict=True):
            np.testing.assert_array_equal(before, after)
    return loaded
