"""Where a network can be repaired: the pre-activations of its units, and the weights that make them.

A `Site` is one pre-activation: of a dense, convolution or einsum layer, of each gate of a recurrent cell, or the output of
an embedding. It is proportional to its weights, so that scaling these scales it. Layers within others, such as the query of
an attention layer, or what a wrapper or a layer of your own holds, have their sites too. The inputs of a batch normalisation
are a site whose statistics are kept by the layer itself.
"""

import dataclasses

import numpy as np
from keras import layers as k
from keras import ops

from keras_multiweight.copies import all_layers

SILENT = 1e-7  # the standard deviation of a unit that is not scaled


@dataclasses.dataclass(frozen=True)
class Site:
    """One pre-activation.

    Attributes:
        layer: The layer that makes it.
        units: The axes of its units in the pre-activation.
        weights: Pairs `(variable, axes of the units)`: the pre-activation is proportional to these.
        bias: `(variable, axes of the units, index)`, or None: what is added to `variable[index]` is added to it.
        columns: Where the part of the last axis of the weights that makes it begins and ends.
    """

    layer: k.Layer
    units: tuple
    weights: tuple
    bias: tuple | None = None
    columns: tuple = (None, None)

    def correct(self, found, goal):
        """Change the weights so that units of means and deviations `found`, `(2, units)`, have those of `goal`.

        Returns:
            The scales and shifts of the units.
        """
        (mean, std), (goal_mean, goal_std) = found, goal
        ratio = np.where((std > SILENT) & (goal_std > SILENT), goal_std / np.maximum(std, SILENT), 1.0)
        shift = goal_mean - mean * ratio if self.bias else np.zeros_like(mean)
        for variable, axes in self.weights:
            self._change(variable, lambda part, axes=axes: part * spread(ratio, axes, part.shape))
        if self.bias:
            variable, axes, index = self.bias
            self._change(variable, lambda part: part + spread(shift, axes, part.shape), index)
        return ratio, shift

    def _change(self, variable, change, index=...):
        value = ops.convert_to_numpy(variable).astype("float64")
        part = value[index][..., slice(*self.columns)]
        part[...] = change(part)
        variable.assign(ops.convert_to_tensor(value, variable.dtype))

    def corrected(self, y, change):
        """A pre-activation after a change."""
        axes = self.units
        ratio, shift = (ops.convert_to_tensor(spread(x, axes, y.shape), y.dtype) for x in change)
        return y * ratio + shift


@dataclasses.dataclass(frozen=True)
class NormSite:
    """The inputs of a batch normalisation, whose moving statistics become theirs."""

    layer: k.Layer
    units: tuple

    def correct(self, found, goal=None):
        mean, std = found
        for variable, value in ((self.layer.moving_mean, mean), (self.layer.moving_variance, np.square(std))):
            variable.assign(ops.convert_to_tensor(value, variable.dtype))

    def corrected(self, x, change):
        return x


def spread(values, axes, shape):
    """Numbers of units in a shape that is broadcast to `shape`, where the units are on `axes`."""
    axes = [axis % len(shape) for axis in axes]
    values = values.reshape([shape[axis] for axis in axes]).transpose(np.argsort(axes))
    return values.reshape([n if axis in axes else 1 for axis, n in enumerate(shape)])


# ---- the sites of each class: by the name of the function that sees them, call by call ----


def plain(kernel, axes):
    """Layers with one kernel: the axes of the units in it. With `channels_first` they are axis 1 of the output."""

    def sites(layer):
        weights = [(getattr(layer, kernel), axes)]
        bias = None if layer.bias is None else (layer.bias, (-1,), ...)
        units = 1 if getattr(layer, "data_format", None) == "channels_first" else -1
        return {"activation": [Site(layer, (units,), _with_bias(weights, bias), bias)]}

    return sites


def _with_bias(weights, bias):
    return (*weights, bias[:2]) if bias else tuple(weights)


def einsum_dense(layer):
    """The units are those letters of the output that are in the kernel, and in the bias if there is one."""
    left, output = layer.equation.replace(" ", "").replace("...", ".").split("->")
    kernel = left.split(",")[1]
    letters = [c for c in output if c in kernel and (layer.bias is None or c in layer.bias_axes)]
    if not letters:
        return {}
    bias = None
    if layer.bias is not None:
        first = min(map(output.index, layer.bias_axes))
        bias = (layer.bias, tuple(output.index(c) - first for c in letters), ...)
    units = tuple(output.index(c) - (len(output) if "." in output[: output.index(c)] else 0) for c in letters)
    weights = [(layer.kernel, tuple(map(kernel.index, letters)))]
    return {"activation": [Site(layer, units, _with_bias(weights, bias), bias)]}


def cell(**functions):
    """Recurrent cells, or layers that hold one: for each activation the gates that it is called with, in order.

    None stands for what is no gate.
    """

    def sites(layer):
        layer = getattr(layer, "cell", layer)
        size = layer.recurrent_kernel.shape[-2]
        weights = [(layer.kernel, (-1,)), (layer.recurrent_kernel, (-1,))]
        bias = None
        if layer.bias is not None:  # (2, gates * units) where a GRU resets after: the first is that of the inputs
            bias = (layer.bias, (-1,), 0 if len(layer.bias.shape) > 1 else ...)
        units = (1 if getattr(layer, "data_format", None) == "channels_first" else -1,)

        def gate(i):
            return Site(layer, units, _with_bias(weights, bias), bias, (i * size, (i + 1) * size))

        return {name: [None if i is None else gate(i) for i in gates] for name, gates in functions.items()}

    return sites


def embedding(layer):
    table = (layer.embeddings, (-1,))
    return {"output": [Site(layer, (-1,), (table,), (*table, ...))]}


def batch_normalization(layer):
    return {"input": [NormSite(layer, (layer.axis,))]}


LONG = {"recurrent_activation": (0, 1, 3), "activation": (2, None)}  # the gates are i, f, c, o; then the carry

TABLE = {
    plain("kernel", (-1,)): [k.Dense, k.Conv1D, k.Conv2D, k.Conv3D],
    plain("kernel", (-2,)): [k.Conv1DTranspose, k.Conv2DTranspose, k.Conv3DTranspose],
    plain("kernel", (-2, -1)): [k.DepthwiseConv1D, k.DepthwiseConv2D],
    plain("pointwise_kernel", (-1,)): [k.SeparableConv1D, k.SeparableConv2D],
    einsum_dense: [k.EinsumDense],
    cell(**LONG): [k.LSTMCell, k.ConvLSTM1D, k.ConvLSTM2D, k.ConvLSTM3D],
    cell(recurrent_activation=(0, 1), activation=(2,)): [k.GRUCell],
    cell(activation=(0,)): [k.SimpleRNNCell],
    embedding: [k.Embedding],
    batch_normalization: [k.BatchNormalization],
}

SITES = {cls: find for find, classes in TABLE.items() for cls in classes}

# Their weights make no units of their own: what goes through them is repaired before and behind. Those of a separable
# convolution's depthwise kernel too.
BESIDE = (
    k.BatchNormalization, k.LayerNormalization, k.RMSNormalization, k.GroupNormalization, k.Normalization,
    k.PReLU, k.Attention, k.AdditiveAttention, k.SeparableConv1D, k.SeparableConv2D,
)  # fmt: skip


def watch(model, see):
    """Have `see(number, y)` called with what is at each site while a model runs, and its result taken in the place of `y`.

    Args:
        model: A Keras model of our own: it is changed.
        see: A function of the number of a site, in the list that is returned, and a tensor.

    Returns:
        List of sites.
    """
    sites = []
    for layer in all_layers(model):
        if isinstance(layer, k.RNN):
            layer.unroll, layer.use_cudnn = True, False  # loops of a backend's own do not call the cell
        for name, calls in SITES.get(type(layer), lambda layer: {})(layer).items():
            numbers = [None if site is None else sites.append(site) or len(sites) - 1 for site in calls]
            _attach(next(filter(None, calls)).layer, name, numbers, see)
    return sites


def _attach(layer, name, numbers, see):
    if name == "input":
        layer.call = lambda x, *args, call=layer.call, **kwargs: call(see(numbers[0], x), *args, **kwargs)
    elif name == "output":
        layer.call = lambda *args, call=layer.call, **kwargs: see(numbers[0], call(*args, **kwargs))
    else:
        setattr(layer, name, _Seen(getattr(layer, name), numbers, see))


class _Seen:
    """Stands for an activation, and sees what it is called with."""

    def __init__(self, function, numbers, see):
        self.function = function
        self.numbers = numbers
        self.see = see
        self.calls = 0

    def __call__(self, y):
        number = self.numbers[self.calls % len(self.numbers)]
        self.calls += 1
        y = y if number is None else self.see(number, y)
        return y if self.function is None else self.function(y)


def without_sites(model, sites):
    """The layers that have weights of which no site is made."""
    placed = {id(variable) for site in sites if isinstance(site, Site) for variable, _ in site.weights}
    layers = all_layers(model)
    placed |= {id(weight) for layer in layers if isinstance(layer, BESIDE) for weight in layer.weights}
    left = [weight for weight in model.weights if "float" in weight.dtype and id(weight) not in placed]
    return list({id(owner): owner for owner in (_owner(weight, layers) for weight in left)}.values())


def _owner(weight, layers):
    """The layer that a weight is of: the innermost."""
    return min((layer for layer in layers if any(w is weight for w in layer.weights)), key=lambda layer: len(layer.weights))
