"""Every layer class whose permutations are known, and its rule. What is in no line here is held fast.

A rule gets a layer and traced inputs, and gives traced outputs. `x.axes[0]` is the batch.
"""

from keras import layers as k

from keras_multiweight.merging.axes import fixed
from keras_multiweight.merging.parts import (
    activated,
    broadcast,
    channel_axis,
    concatenated,
    hold_others,
    product,
    reshaped,
    same,
)
from keras_multiweight.merging.registry import register_permutation_rule
from keras_multiweight.merging.trace import Traced, traced_in

# ---- no weights ----


def activation(trace, layer, x, *args, **kwargs):
    """As `same`, if the function is one that Keras has and treats all units alike."""
    return activated(trace, layer, Traced(x.axes, layer.compute_dtype))


def softmax(trace, layer, x, *args, **kwargs):
    """As `same`; a mask is for the axes where they are."""
    if traced_in((args, kwargs)):
        trace.hold((x, args, kwargs))
    return x


def spatial(trace, layer, x, *args, **kwargs):
    """Pooling, padding and the like: the channels stay, all other axes are of the data."""
    shape = layer.compute_output_shape(x.shape)
    channels = channel_axis(layer, len(x.axes))
    channel = x.axes[channels]
    hold_others(trace, x, channels)
    if len(shape) == 2:
        return Traced((fixed(None), channel), x.dtype)
    return Traced([channel if i == channels else fixed(n) for i, n in enumerate(shape)], x.dtype)


def flatten(trace, layer, x, *args, **kwargs):
    """All axes but the first become one, row-major. With channels first, Keras moves these to the end before."""
    axes = x.axes[1:]
    if layer.data_format == "channels_first" and len(axes) > 1:
        axes = (*axes[1:], axes[0])
    return Traced((x.axes[0], product(trace, axes)), x.dtype)


def reshape(trace, layer, x, *args, **kwargs):
    return reshaped(trace, x, (None, *layer.compute_output_shape(x.shape)[1:]))


def permute(trace, layer, x, *args, **kwargs):
    return Traced((x.axes[0], *(x.axes[i] for i in layer.dims)), x.dtype)


def repeat_vector(trace, layer, x, *args, **kwargs):
    return x.with_axis(0, x.axes[0], fixed(layer.n))


def join(trace, layer, inputs, *args, **kwargs):
    """Add and its kin: elementwise, broadcast. Inputs of lower rank get axes behind the batch."""
    rank = max(len(x.axes) for x in inputs)
    inputs = [Traced((x.axes[0], *[fixed(1)] * (rank - len(x.axes)), *x.axes[1:]), x.dtype) for x in inputs]
    return broadcast(trace, inputs)


def concatenate(trace, layer, inputs, *args, **kwargs):
    return concatenated(trace, inputs, layer.axis)


def scaled(trace, layer, x, *args, **kwargs):
    """Rescaling: by one number for all units, or by one for each."""
    if any(getattr(value, "shape", None) or isinstance(value, (list, tuple)) for value in (layer.scale, layer.offset)):
        trace.freeze(x.axes[-1], f"'{trace.path}' scales each unit by its own constant")
    return x


def attend(trace, layer, inputs, *args, **kwargs):
    """Attention and AdditiveAttention: query, value and key, whose features are compared unit by unit."""
    query, value, *rest = inputs
    key = rest[0] if rest else value
    trace.unify(query.axes[-1], key.axes[-1], f"'{trace.path}' compares query and key")
    for x in (query, value, key):
        hold_others(trace, x, -1)
    for weight in layer.weights:
        trace.weight(weight, [query.axes[-1]] * len(weight.shape))
    output = query.with_axis(-1, value.axes[-1])
    scores = Traced((query.axes[0], query.axes[1], value.axes[1]), query.dtype)
    return [output, scores] if kwargs.get("return_attention_scores") else output


TABLE = {
    same: [
        k.ELU, k.Identity, k.LeakyReLU, k.ReLU, k.UnitNormalization, k.ActivityRegularization, k.Masking,
        k.AlphaDropout, k.Dropout, k.GaussianDropout, k.GaussianNoise,
        k.SpatialDropout1D, k.SpatialDropout2D, k.SpatialDropout3D,
    ],
    activation: [k.Activation],
    softmax: [k.Softmax],
    spatial: [
        k.AveragePooling1D, k.AveragePooling2D, k.AveragePooling3D, k.MaxPooling1D, k.MaxPooling2D, k.MaxPooling3D,
        k.GlobalAveragePooling1D, k.GlobalAveragePooling2D, k.GlobalAveragePooling3D,
        k.GlobalMaxPooling1D, k.GlobalMaxPooling2D, k.GlobalMaxPooling3D,
        k.AdaptiveAveragePooling1D, k.AdaptiveAveragePooling2D, k.AdaptiveAveragePooling3D,
        k.AdaptiveMaxPooling1D, k.AdaptiveMaxPooling2D, k.AdaptiveMaxPooling3D,
        k.UpSampling1D, k.UpSampling2D, k.UpSampling3D, k.ZeroPadding1D, k.ZeroPadding2D, k.ZeroPadding3D,
        k.Cropping1D, k.Cropping2D, k.Cropping3D, k.CenterCrop, k.Resizing,
    ],
    flatten: [k.Flatten],
    reshape: [k.Reshape],
    permute: [k.Permute],
    repeat_vector: [k.RepeatVector],
    join: [k.Add, k.Average, k.Maximum, k.Minimum, k.Multiply, k.Subtract],
    concatenate: [k.Concatenate],
    scaled: [k.Rescaling],
    attend: [k.Attention, k.AdditiveAttention],
}  # fmt: skip

for rule, classes in TABLE.items():
    for cls in classes:
        register_permutation_rule(cls, rule)
