"""REPAIR: give each layer of a merged network the means and standard deviations that it has in the members.

The average of matched units varies less than the units do, more so from layer to layer, until little of the signal is
left. One pass of data through the merged network corrects it, layer by layer, each on inputs that are corrected already.

Reference: Jordan et al., 2022, "REPAIR: renormalizing permuted activations for interpolation repair".
"""

import keras
import numpy as np
from keras import layers as k
from keras import ops

from keras_multiweight.copies import matching_weights
from keras_multiweight.merging.members import coefficients_of, copy_with_weights, open_for_merging
from keras_multiweight.merging.scores import check_rows
from keras_multiweight.packing.graph import count_calls, input_layers, is_graph, walk

SILENT = 1e-7  # the standard deviation of a unit that is not scaled

# The weight that makes a layer's units, and the axes of the units in it.
KERNELS = {
    **dict.fromkeys((k.Dense, k.Conv1D, k.Conv2D, k.Conv3D), ("kernel", (-1,))),
    **dict.fromkeys((k.Conv1DTranspose, k.Conv2DTranspose, k.Conv3DTranspose), ("kernel", (-2,))),
    **dict.fromkeys((k.DepthwiseConv1D, k.DepthwiseConv2D), ("kernel", (-2, -1))),
    **dict.fromkeys((k.SeparableConv1D, k.SeparableConv2D), ("pointwise_kernel", (-1,))),
}


def repair(model, members, data, weights=None):
    """Restore the members' mean and standard deviation of each pre-activation in a merged model.

    Dense and convolution layers are scaled and shifted, unit by unit; one without a bias can only be scaled. Batch
    normalisation gets new moving statistics. Other layers, and layers that are called more than once, stay as they are.

    Args:
        model: A Keras model, merged from the members. It is not changed.
        members: A MultiModel, or a list of models, whose units stand in the same places as those of `model`: the aligned
            members, not those that were aligned.
        data: Inputs as a member takes them, without targets: a few hundred to a few thousand rows, which all are held in
            memory at once.
        weights: `(N,)` how much each member counts, as in the merge.

    Returns:
        A new Keras model.

    Raises:
        ValueError: Data of a shape that the model does not take.

    Example:

    ```python
    aligned = merging.weight_matching(models).models()
    merged = merging.repair(merging.uniform_soup(aligned), aligned, x)
    ```
    """
    members = open_for_merging(members)
    own = copy_with_weights(members.template)
    statistics = []
    for i in range(len(members)):
        own.set_weights(members.weights(i))
        statistics.append(_statistics(own, data))
    coefficients = coefficients_of(weights, len(members))
    goals = (np.tensordot(coefficients, of_layer, 1) for of_layer in zip(*statistics))
    return _passed(model, data, _Corrected(goals))


def update_batch_norm(model, data):
    """Set the moving statistics of every batch normalisation to those of data. A new model is returned.

    Averaged moving statistics are not those of averaged weights: without this a merged network is near chance.

    Args:
        model: A Keras model. It is not changed.
        data: Inputs as the model takes them, without targets; all are held in memory at once.

    Returns:
        A new Keras model.
    """
    return _passed(model, data, lambda layer, y: None)


def _statistics(model, data):
    """The means and standard deviations of the units of each layer that can be corrected: a list of `(2, units)`."""
    found = []
    _run(model, data, lambda layer, y: found.append(_moments(layer, y)), lambda layer, x: None)
    return found


def _passed(model, data, correct):
    """A copy of a model that is corrected on the way through."""
    copy, result = copy_with_weights(model), copy_with_weights(model)
    _run(copy, data, correct, _reset)
    for weight, corrected in zip(result.weights, matching_weights(copy, result)):
        weight.assign(corrected)
    return result


class _Corrected:
    """Scales and shifts a layer's units to the next goal."""

    def __init__(self, goals):
        self.goals = goals

    def __call__(self, layer, y):
        (mean, std), (goal_mean, goal_std) = _moments(layer, y), next(self.goals)
        ratio = np.where((std > SILENT) & (goal_std > SILENT), goal_std / np.maximum(std, SILENT), 1.0)
        name, axes = KERNELS[type(layer)]
        kernel = getattr(layer, name)
        shape = [n if axis - len(kernel.shape) in axes else 1 for axis, n in enumerate(kernel.shape)]
        _assign(kernel, ops.convert_to_numpy(kernel) * ratio.reshape(shape))
        if layer.bias is not None:
            _assign(layer.bias, (ops.convert_to_numpy(layer.bias) - mean) * ratio + goal_mean)


def _assign(variable, value):
    variable.assign(ops.cast(ops.convert_to_tensor(value.astype("float32")), variable.dtype))


def _moments(layer, y):
    y = ops.convert_to_numpy(y).astype("float64")
    axis = 1 if getattr(layer, "data_format", None) == "channels_first" else y.ndim - 1
    others = tuple(i for i in range(y.ndim) if i != axis)
    return np.stack([y.mean(axis=others), y.std(axis=others)])


def _reset(layer, x):
    """Set the moving statistics of a batch normalisation to those of its inputs."""
    x = ops.convert_to_numpy(x).astype("float64")
    others = tuple(i for i in range(x.ndim) if i != layer.axis % x.ndim)
    _assign(layer.moving_mean, x.mean(axis=others))
    _assign(layer.moving_variance, x.var(axis=others))


def _run(model, data, correct, reset):
    """Run a model on data, operation by operation.

    Args:
        model: A Keras model of our own: it is changed.
        correct: `correct(layer, y)` is called with each layer that can be corrected and its pre-activations, and may
            change the layer.
        reset: `reset(layer, x)`, with each batch normalisation and its inputs.
    """
    model.trainable = False  # no gradients are kept
    calls = count_calls(model)

    def visit(operation, args, kwargs):
        if is_graph(operation):
            return keras.tree.flatten(walk(operation, keras.tree.flatten(args), visit))
        if type(operation) is k.BatchNormalization and calls[id(operation)] == 1:
            reset(operation, args[0])
        if type(operation) in KERNELS and calls[id(operation)] == 1:
            return [_corrected(operation, args[0], correct)]
        return keras.tree.flatten(operation(*args, **kwargs))

    walk(model, _inputs(model, data), visit)


def _corrected(layer, x, correct):
    """The output of a layer, after its pre-activations have been corrected."""
    function, layer.activation = layer.activation, keras.activations.linear
    correct(layer, layer(x))
    y = layer(x)
    layer.activation = function
    return function(y)


def _inputs(model, data):
    check_rows(model, data, "Data to repair with")
    arrays = [data[x.name] for x in model.inputs] if isinstance(data, dict) else keras.tree.flatten(data)
    return [ops.convert_to_tensor(a, x.output.dtype) for a, x in zip(arrays, input_layers(model), strict=True)]
