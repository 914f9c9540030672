"""Permutation rules of the layers with weights."""

from keras import layers as k

from keras_multiweight.merging.axes import fixed, size_of
from keras_multiweight.merging.parts import activated, broadcast, channel_axis, concatenated, hold_others, weights_by_name
from keras_multiweight.merging.registry import PERMUTATIONS, register_permutation_rule
from keras_multiweight.merging.trace import Traced, traced_in

# ---- dense and convolution ----


def dense(trace, layer, x, *args, **kwargs):
    units = trace.units(layer.units)
    trace.weight(layer.kernel, [x.axes[-1], units])
    _bias(trace, layer, units)
    return activated(trace, layer, Traced((*x.axes[:-1], units), layer.compute_dtype))


def einsum_dense(trace, layer, x, *args, **kwargs):
    """Letters that input and kernel share are the same axis; those that the kernel brings are new units."""
    inputs, kernel, output = _letters(layer.equation, len(x.axes))
    axes = dict(zip(inputs, x.axes))
    for letter, size in zip(kernel, layer.kernel.shape):
        if letter not in axes:
            axes[letter] = trace.units(size, f"units_{letter}")
    trace.weight(layer.kernel, [axes[letter] for letter in kernel])
    if layer.bias is not None:
        shape = (1,) * (len(output) - len(layer.bias.shape)) + tuple(layer.bias.shape)
        at = [fixed(1) if n == 1 else axes[letter] for letter, n in zip(output, shape)]
        trace.weight(layer.bias, at[len(output) - len(layer.bias.shape) :])
    return activated(trace, layer, Traced([axes[letter] for letter in output], layer.compute_dtype))


def _letters(equation, rank):
    """The axes of input, kernel and output as names; an ellipsis stands for as many as the input has more."""
    left, output = equation.replace(" ", "").split("->")
    inputs, kernel = left.split(",")
    more = [f"...{i}" for i in range(rank - len(inputs.replace("...", "")))]
    return [
        [name for part in text.replace("...", ".") for name in (more if part == "." else part)]
        for text in (inputs, kernel, output)
    ]


def convolution(trace, layer, x, *args, **kwargs):
    filters = _filters(trace, layer, x)
    return _spatial_output(trace, layer, x, filters)


def _filters(trace, layer, x):
    """The axis of a convolution's filters. With `groups` the filters of each group read the channels of that group."""
    channel, shape = x.axes[channel_axis(layer, len(x.axes))], tuple(layer.kernel.shape)
    space = [fixed(n) for n in shape[:-2]]
    if layer.groups == 1:
        filters = trace.units(layer.filters, "filters")
        trace.weight(layer.kernel, [*space, channel, filters])
    else:
        group = trace.group(layer.groups, f"{trace.path}/groups")
        reads = trace.group(shape[-2], f"{trace.path}/channels", group)
        made = trace.group(layer.filters // layer.groups, f"{trace.path}/filters", group)
        trace.unify(channel, ((group, reads),), f"'{trace.path}' reads it in groups")
        filters = ((group, made),)
        trace.weight(layer.kernel, [*space, ((reads,),), filters])
    _bias(trace, layer, filters)
    return filters


def transposed(trace, layer, x, *args, **kwargs):
    """The kernel is (..., filters, channels)."""
    filters = trace.units(layer.filters, "filters")
    channel = x.axes[channel_axis(layer, len(x.axes))]
    trace.weight(layer.kernel, [*map(fixed, layer.kernel.shape[:-2]), filters, channel])
    _bias(trace, layer, filters)
    return _spatial_output(trace, layer, x, filters)


def depthwise(trace, layer, x, *args, **kwargs):
    filters = _multiplied(trace, layer.kernel, layer, x)
    _bias(trace, layer, filters)
    return _spatial_output(trace, layer, x, filters)


def separable(trace, layer, x, *args, **kwargs):
    between = _multiplied(trace, layer.depthwise_kernel, layer, x)
    filters = trace.units(layer.filters, "filters")
    trace.weight(layer.pointwise_kernel, [*map(fixed, layer.pointwise_kernel.shape[:-2]), between, filters])
    _bias(trace, layer, filters)
    return _spatial_output(trace, layer, x, filters)


def _multiplied(trace, kernel, layer, x):
    """What a depthwise kernel (..., channels, multiplier) makes: the multiplier's filters lie within each channel."""
    channel, multiplier = x.axes[channel_axis(layer, len(x.axes))], kernel.shape[-1]
    if multiplier > 1:
        channel = tuple(_with_multiplier(trace, segment, multiplier) for segment in trace.expand(channel))
    shape = (*kernel.shape[:-2], size_of(channel))
    trace.weight(kernel, [*map(fixed, kernel.shape[:-2]), channel], shape)
    return channel


def _with_multiplier(trace, segment, multiplier):
    parent = segment[0] if len(segment) == 1 and not segment[0].parent else None
    return (*segment, trace.group(multiplier, f"{trace.path}/multiplier", parent))


def _spatial_output(trace, layer, x, filters):
    channels = channel_axis(layer, len(x.axes))
    hold_others(trace, x, channels)
    shape = layer.compute_output_shape(x.shape)
    y = Traced([filters if i == channels else fixed(n) for i, n in enumerate(shape)], layer.compute_dtype)
    return activated(trace, layer, y)


def _bias(trace, layer, units):
    if layer.bias is not None:
        trace.weight(layer.bias, [units])


# ---- normalisation ----


def normalization(trace, layer, x, *args, **kwargs):
    """One number for each unit of the axes that the layer names; the rest is computed from all units alike."""
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    for weight in layer.weights:
        trace.weight(weight, [x.axes[i] for i in axes], statistic=weight.name in ("moving_mean", "moving_variance"))
    return Traced(x.axes, layer.compute_dtype)


def group_normalization(trace, layer, x, *args, **kwargs):
    """The units of a group are normalised together: groups permute as wholes, and units within a group."""
    size = size_of(x.axes[layer.axis])
    groups = layer.groups if layer.groups != -1 else size
    outer = trace.group(groups, f"{trace.path}/groups")
    units = ((outer, trace.group(size // groups, f"{trace.path}/units", outer)),)
    trace.unify(x.axes[layer.axis], units, f"'{trace.path}' normalises it in groups")
    for weight in layer.weights:
        trace.weight(weight, [x.axes[layer.axis]])
    return Traced(x.axes, layer.compute_dtype)


def constant_normalization(trace, layer, x, *args, **kwargs):
    """Normalization: by a mean and a variance of the data for each index of its axes."""
    for i in layer.axis or ():
        trace.freeze(x.axes[i], f"'{trace.path}' normalises each index by its own constants")
    for weight in layer.weights:
        trace.weight(weight, [fixed(n) for n in weight.shape])
    return x


def prelu(trace, layer, x, *args, **kwargs):
    trace.weight(layer.alpha, [fixed(1) if n == 1 else axis for n, axis in zip(layer.alpha.shape, x.axes[1:])])
    return Traced(x.axes, layer.compute_dtype)


# ---- sequences ----


def embedding(trace, layer, x, *args, **kwargs):
    units = trace.units(layer.output_dim)
    trace.weight(layer.embeddings, [fixed(layer.input_dim), units])
    return Traced((*x.axes, units), layer.compute_dtype)


def recurrent(trace, layer, x, *args, initial_state=None, **kwargs):
    """The gates lie one after another along the last axis of the weights, and move as one: `((gates, units),)`."""
    weights = weights_by_name(layer)
    kernel, state_kernel = weights["kernel"], weights["recurrent_kernel"]
    size = state_kernel.shape[-2]
    units, gates = trace.units(size), state_kernel.shape[-1] // size
    gated = ((fixed(gates)[0][0], units[0][0]),)
    space = [fixed(n) for n in kernel.shape[:-2]]
    first = getattr(layer, "data_format", None) == "channels_first"
    channels = -1 - len(space) if first else -1  # of inputs, of states, and of sequences of them
    trace.weight(kernel, [*space, x.axes[channels], gated])
    trace.weight(state_kernel, [*space, units, gated])
    if "bias" in weights:  # (gates * units), or (2, gates * units) where a GRU resets after
        trace.weight(weights["bias"], [*map(fixed, weights["bias"].shape[:-1]), gated])
    hold_others(trace, x, channels)
    for state in traced_in([initial_state, args]):
        trace.unify(state.axes[channels], units, f"'{trace.path}' begins with it as its state")
    shapes = layer.compute_output_shape(x.shape)
    shapes = list(shapes) if layer.return_state else [shapes]
    outputs = [Traced(map(fixed, shape), layer.compute_dtype).with_axis(channels, units) for shape in shapes]
    activated(trace, layer, outputs[0], ("activation", "recurrent_activation"))
    return outputs if layer.return_state else outputs[0]


def bidirectional(trace, layer, x, initial_state=None, *args, **kwargs):
    outputs, path, states = [], trace.path, traced_in([initial_state])
    half = len(states) // 2
    rule = PERMUTATIONS.find(layer.forward_layer)
    if rule is None or PERMUTATIONS.find(layer.backward_layer) is not rule:
        name = type(layer.forward_layer).__name__
        return trace.unknown_operation(layer, (x, states), {}, f"has an inner layer of class {name}, without a rule")
    for inner, own in ((layer.forward_layer, states[:half]), (layer.backward_layer, states[half:])):
        trace.path = f"{path}/{inner.name}"
        found = rule(trace, inner, x, initial_state=own)
        outputs.append(found if isinstance(found, list) else [found])
    trace.path = path
    (forward, *states), (backward, *more) = outputs
    if layer.merge_mode == "concat":
        joined = [concatenated(trace, [forward, backward], -1)]
    else:
        joined = [forward, backward] if layer.merge_mode is None else [broadcast(trace, [forward, backward])]
    found = [*joined, *states, *more]
    return found if len(found) > 1 else found[0]


def time_distributed(trace, layer, x, *args, **kwargs):
    """The inner layer sees no time."""
    inner = layer.layer
    rule = PERMUTATIONS.find(inner)
    if rule is None:
        return trace.unknown_operation(
            layer, (x,), {}, f"has an inner layer of class {type(inner).__name__}, without a rule"
        )
    trace.freeze(x.axes[1], f"'{trace.path}' takes it for time")
    y = rule(trace, inner, x.with_axis(1))
    return y.with_axis(0, y.axes[0], x.axes[1])


# ---- attention ----


def attention(trace, layer, query, value, key=None, *args, return_attention_scores=False, **kwargs):
    """Heads permute as wholes; within each head, what query and key compare, and what value and output pass on."""
    key = key or value
    parts = {"/".join(w.path.split("/")[-2:]): w for w in layer.weights}
    _, heads, key_dim = parts["key/kernel"].shape
    head = trace.group(heads, f"{trace.path}/heads")
    many = parts["query/kernel"].shape[1] // heads  # queries that share a head of keys and values
    asks = ((head, trace.group(many, f"{trace.path}/queries", head)),) if many > 1 else ((head,),)
    compared = ((trace.group(key_dim, f"{trace.path}/keys", head),),)
    passed = ((trace.group(parts["value/kernel"].shape[-1], f"{trace.path}/values", head),),)
    out_shape = parts["attention_output/kernel"].shape[2:]
    out = [trace.units(n, "units" if i == 0 else f"units_{i}") for i, n in enumerate(out_shape)]
    placed = {
        "query": (query.axes[-1], asks, compared),
        "key": (key.axes[-1], ((head,),), compared),
        "value": (value.axes[-1], ((head,),), passed),
        "gate": (query.axes[-1], asks, passed),
        "attention_output": (asks, passed, *out),
    }
    for name, axes in placed.items():
        bias = out if name == "attention_output" else axes[1:]
        for kind, at in (("kernel", axes), ("bias", bias)):
            if f"{name}/{kind}" in parts:
                trace.weight(parts[f"{name}/{kind}"], at)
    for x in (query, key, value):
        hold_others(trace, x, -1)
    y = Traced((*query.axes[:-1], *out), layer.compute_dtype)
    if not return_attention_scores:
        return y
    return [y, Traced((query.axes[0], asks, *query.axes[1:-1], *value.axes[1:-1]), layer.compute_dtype)]


TABLE = {
    dense: [k.Dense],
    einsum_dense: [k.EinsumDense],
    convolution: [k.Conv1D, k.Conv2D, k.Conv3D],
    transposed: [k.Conv1DTranspose, k.Conv2DTranspose, k.Conv3DTranspose],
    depthwise: [k.DepthwiseConv1D, k.DepthwiseConv2D],
    separable: [k.SeparableConv1D, k.SeparableConv2D],
    normalization: [k.BatchNormalization, k.LayerNormalization, k.RMSNormalization],
    group_normalization: [k.GroupNormalization],
    constant_normalization: [k.Normalization],
    prelu: [k.PReLU],
    embedding: [k.Embedding],
    recurrent: [k.LSTM, k.GRU, k.SimpleRNN, k.ConvLSTM1D, k.ConvLSTM2D, k.ConvLSTM3D],
    bidirectional: [k.Bidirectional],
    time_distributed: [k.TimeDistributed],
    attention: [k.MultiHeadAttention, k.GroupQueryAttention],
}

for rule, classes in TABLE.items():
    for cls in classes:
        register_permutation_rule(cls, rule)
