"""Rules of layers that hold others: what is inside is packed by its own rule."""

from keras import layers as k

from keras_multiweight.layers import plumbing
from keras_multiweight.layers.directions import MergeDirections
from keras_multiweight.layers.mapping import accepted
from keras_multiweight.layouts import Layout
from keras_multiweight.packing import kinds
from keras_multiweight.packing.fallback import mapped, rule_of
from keras_multiweight.packing.graph import as_functional, is_graph, parts
from keras_multiweight.packing.trace import mask_of

FOLDED, STACKED = Layout.FOLDED, Layout.STACKED


def pipeline(trace, members, inputs, training=None, mask=None):
    """The layers of a Pipeline, one after another."""
    for layer in members.template.layers:
        inputs = members.pack_inside(layer, inputs, **accepted(layer, {"training": training}))
    return inputs


def bidirectional(trace, members, sequences, initial_state=None, mask=None, training=None):
    """Two recurrent layers, and a small layer that joins what they give."""
    template = members.template
    if not _same_policy(template):
        return mapped(trace, members, sequences, initial_state=initial_state, mask=mask, training=training)
    half = len(initial_state) // 2 if initial_state else 0
    states = (initial_state[:half], initial_state[half:]) if initial_state else (None, None)
    answers = [
        members.pack_inside(layer, sequences, initial_state=state, mask=mask, training=training)
        for layer, state in zip(parts(template), states)
    ]
    answers = [trace.to(list(y) if template.return_state else [y], STACKED) for y in answers]
    options = {"name": trace.unique_name(members.path), "dtype": template.dtype_policy}
    merge = MergeDirections(template.merge_mode, template.return_sequences, **options)
    merged = trace.mark(merge([y[0] for y in answers]), STACKED)
    return [merged, *answers[0][1:], *answers[1][1:]]


def time_distributed(trace, members, inputs, training=None, mask=None):
    """Steps become rows, for a layer that treats each row alone."""
    template = members.template
    takes_mask = "mask" in accepted(template.layer, {"mask": None})
    if (mask_of(inputs) and takes_mask) or not _rows_alone(template.layer) or not _same_policy(template):
        return mapped(trace, members, inputs, training=training, mask=mask)
    inputs = trace.to(inputs, FOLDED) if trace.layout(inputs) is STACKED else inputs
    name = trace.unique_name(members.path)
    rows = plumbing.StepsToRows(name=name, dtype=inputs.dtype)(inputs)
    outputs = members.pack_inside(template.layer, trace.mark(rows, trace.layout(inputs)))
    outputs = trace.to(outputs, FOLDED) if trace.layout(outputs) is STACKED else outputs
    steps = plumbing.RowsToSteps(name=trace.unique_name(f"{name}_steps"), dtype=outputs.dtype)
    return trace.mark(steps([outputs, inputs]), trace.layout(outputs))


def _same_policy(wrapper):
    """A wrapper casts for what it wraps; where the two have one policy, the order does not matter."""
    return all(part.dtype_policy.name == wrapper.dtype_policy.name for part in parts(wrapper))


def _rows_alone(layer):
    """Whether a layer never lets rows meet, in training neither: Keras calls it with one step at a time."""
    if is_graph(layer):
        return all(_rows_alone(inner) for inner in as_functional(layer).operations if not isinstance(inner, k.InputLayer))
    plain = [getattr(layer, name, None) for name in ("activity_regularizer", "noise_shape")] == [None, None]
    return plain and kinds.has_known_activation(layer) and rule_of(layer) in kinds.ROWS_ALONE
