"""Layers that have no rule of their own: mapped over the members where that works, unrolled where it does not."""

import warnings

import keras
from keras import ops, tree

from keras_multiweight.callers import stack_level
from keras_multiweight.layers import MapMembers
from keras_multiweight.layers.mapping import seed_states
from keras_multiweight.layouts import Layout
from keras_multiweight.packing import kinds
from keras_multiweight.packing.trace import is_symbolic
from keras_multiweight.registry import PACKING

TRIAL_SIZE = 8  # of the trial's inputs, where the shape leaves a dimension open


def rule_of(operation):
    """The rule of a layer or raw operation: its own, or the fallback."""
    return PACKING.find(operation) or fallback


def fallback(trace, members, *args, **kwargs):
    """The rule of a layer or raw operation that has none."""
    if not isinstance(members.template, keras.layers.Layer):
        return kinds.mapped_operation(trace, members, *args, **kwargs)
    rule = _that_works(trace, members, args, kwargs)
    if id(members.template) not in trace.layers:
        warnings.warn(
            f"Layer '{members.path}' of class {type(members.template).__name__} has no rule of its own and is packed by the "
            f"'{rule.__name__}' rule: right, but perhaps not fast. See multi.plan() and kmw.register_rule.",
            stacklevel=stack_level(),
        )
    return rule(trace, members, *args, **kwargs)


def mapped(trace, members, *args, **kwargs):
    """Any layer at all: vectorized where the backend's map knows all that the layer does, else unrolled."""
    return _that_works(trace, members, args, kwargs)(trace, members, *args, **kwargs)


def _that_works(trace, members, args, kwargs):
    made = id(members.template) in trace.layers
    return kinds.vectorized if made or _can_be_mapped(trace, members, args, kwargs) else kinds.unrolled


def _can_be_mapped(trace, members, args, kwargs):
    """Try the map on two members and zeros, outside of the graph. What draws random numbers is not mapped."""
    if seed_states(members.template):
        return False
    args, kwargs = tree.map_structure(
        lambda x: _zeros(trace, x) if is_symbolic(x) else x,
        (args, kwargs),
    )
    try:
        MapMembers(members.template, num_members=2, member_axis=0)(*args, **kwargs)
    except Exception:  # whatever the backend's map does not know
        return False
    return True


def _zeros(trace, x):
    """Zeros for two members, `(2, B, ...)`, in the shape that the layer gets: it is called on STACKED tensors."""
    rows, *rest = trace.member_shape(x)
    if trace.layout(x) is Layout.GROUPED:
        rest[-1] //= trace.num_members
    return ops.zeros((2, rows or 2, *(d or TRIAL_SIZE for d in rest)), dtype=x.dtype)
