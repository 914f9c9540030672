"""The kinds of rules. A row of `table.py` is a layer class and one of these.

A rule is `rule(trace, members, *args, **kwargs) -> outputs`: it brings the arguments to a layout, makes the packed layer
(or takes the one made at an earlier call), calls it, and says the layout of what comes out.
"""

import keras

from keras_multiweight.layers import MapMembers
from keras_multiweight.layers.activations import is_elementwise
from keras_multiweight.layers.operations import MapOperation
from keras_multiweight.layouts import Layout
from keras_multiweight.packing.trace import is_symbolic, mask_of, tensors

SHARED, STACKED, FOLDED, GROUPED = Layout.SHARED, Layout.STACKED, Layout.FOLDED, Layout.GROUPED


# ---- layers without weights ----


def elementwise(trace, members, *args, **kwargs):
    """Each number alone: in whatever layout it comes."""
    return _weightless(trace, members, "elementwise", _one_of(trace, args, kwargs, (SHARED, FOLDED, GROUPED)), args, kwargs)


def rowwise(trace, members, *args, **kwargs):
    """Each row alone: members are more rows."""
    if not trace.have_equal_rows(args, kwargs) or _works_along_rows(
        members.template, len(trace.member_shape(tensors(args)[0]))
    ):
        return vectorized(trace, members, *args, **kwargs)
    return _weightless(trace, members, "rowwise", _one_of(trace, args, kwargs, (SHARED, FOLDED)), args, kwargs)


def channelwise(trace, members, *args, **kwargs):
    """Never mixes channels: members may be more channels, if these are last."""
    last = getattr(members.template, "data_format", None) in (None, "channels_last")
    allowed = (SHARED, FOLDED, GROUPED) if last else (SHARED, FOLDED)
    return _weightless(trace, members, "channelwise", _one_of(trace, args, kwargs, allowed), args, kwargs)


def merging(trace, members, *args, **kwargs):
    """Joins tensors number by number: grouped if all are, with equal shapes."""
    if not trace.have_equal_rows(args, kwargs):
        return vectorized(trace, members, *args, **kwargs)
    shapes = {tuple(x.shape) for x in tensors(args)}
    allowed = (SHARED, FOLDED, GROUPED) if len(shapes) == 1 else (SHARED, FOLDED)
    return _weightless(trace, members, "merging", _one_of(trace, args, kwargs, allowed), args, kwargs)


def random(trace, members, *args, **kwargs):
    """Draws for each number: a shared input is no longer shared, because every member draws its own."""
    own = _one_of(trace, args, kwargs, (FOLDED, GROUPED))
    layout = FOLDED if getattr(members.template, "noise_shape", None) is not None else own
    return _weightless(trace, members, "random", layout, args, kwargs)


def activation(trace, members, *args, **kwargs):
    """An Activation layer: elementwise, or along the channels as softmax is."""
    rule = elementwise if is_elementwise(members.template.activation) else vectorized_unless_known
    return rule(trace, members, *args, **kwargs)


def vectorized_unless_known(trace, members, *args, **kwargs):
    """Keras's own activations treat each row alone; a custom function may do anything."""
    known = members.template.activation.__module__.startswith("keras.")
    return (rowwise if known else vectorized)(trace, members, *args, **kwargs)


def _weightless(trace, members, kind, layout, args, kwargs):
    if getattr(members.template, "activity_regularizer", None) is not None:
        return vectorized(trace, members, *args, **kwargs)  # Keras divides the penalty by the rows it sees
    args, kwargs = trace.to((args, kwargs), layout)
    return trace.mark(trace.weightless(members, kind)(*args, **kwargs), layout)


def _works_along_rows(layer, rank):
    """Whether an axis that a layer names is that of the rows: a Softmax over axis 0, a Concatenate along it."""
    axes = keras.tree.flatten(getattr(layer, "axis", None))
    return any(isinstance(axis, int) and axis % rank == 0 for axis in axes)


def _one_of(trace, args, kwargs, allowed):
    """The one layout that all tensors have, if it is allowed, else FOLDED."""
    layouts = trace.layouts(args, kwargs)
    if mask_of((args, kwargs)):
        allowed = [layout for layout in allowed if layout is not GROUPED]
    return layouts.pop() if len(layouts) == 1 and layouts <= set(allowed) else FOLDED


# ---- layers with weights ----


def weighted(multi_class):
    """A MultiLayer that computes with the members first."""

    def rule(trace, members, *args, **kwargs):
        return _stacked(trace, members, "weighted", multi_class, args, kwargs)

    return rule


def filtered(multi_class):
    """A MultiLayer that computes with the members joined with the channels."""

    def rule(trace, members, *args, **kwargs):
        if members.template.data_format != "channels_last":
            return unrolled(trace, members, *args, **kwargs)
        shared = _is_shared(trace, members, args, kwargs)
        if not shared:
            args, kwargs = trace.to((args, kwargs), GROUPED)
        layer = trace.multi(members, "filtered", multi_class, member_axis=-1, shared_input=shared)
        return trace.mark(layer(*args, **kwargs), GROUPED)

    return rule


def normalized(multi_class):
    """Batch normalisation: grouped among convolutions, members first elsewhere."""

    def rule(trace, members, x, *args, **kwargs):
        made = trace.layers.get(id(members.template))
        last = members.template.axis in (-1, len(x.shape) - 1) and not members.template.renorm
        grouped = trace.layout(x) is GROUPED and last and not tensors((args, kwargs)) and not mask_of(x)
        if made.member_axis == -1 if made else grouped:
            layer = trace.multi(members, "filtered", multi_class, member_axis=-1)
            return trace.mark(layer(trace.to(x, GROUPED), *args, **kwargs), GROUPED)
        return _stacked(trace, members, "weighted", multi_class, (x, *args), kwargs)

    return rule


def vectorized(trace, members, *args, **kwargs):
    """Any layer at all, mapped over the members; computed once where no weight tells them apart."""
    template = members.template
    if trace.layouts(args, kwargs) == {SHARED} and not template.variables and template.activity_regularizer is None:
        return _weightless(trace, members, "shared", SHARED, args, kwargs)
    return _stacked(trace, members, "vectorized", MapMembers, args, kwargs)


def unrolled(trace, members, *args, **kwargs):
    """Any layer at all, N calls side by side."""
    return _stacked(trace, members, "unrolled", MapMembers, args, kwargs, lowering="unrolled")


def _stacked(trace, members, kind, multi_class, args, kwargs, **options):
    shared = _is_shared(trace, members, args, kwargs)
    if not shared:
        args, kwargs = trace.to((args, kwargs), STACKED)
    layer = trace.multi(members, kind, multi_class, member_axis=0, shared_input=shared, **options)
    return trace.mark(layer(*args, **kwargs), STACKED)


def _is_shared(trace, members, args, kwargs):
    """A layer that is called more than once is made once, for inputs with a member axis."""
    return members.calls == 1 and trace.layouts(args, kwargs) == {SHARED}


# ---- raw operations ----


def aligned_operation(trace, members, *args, **kwargs):
    """A raw elementwise operation: each row alone, where all that it joins has the same rows and rank; else mapped."""
    found, arrays = tensors((args, kwargs)), _arrays(args, kwargs)
    layouts, ranks = trace.layouts(found), {len(trace.member_shape(x)) for x in found}
    aligned = len(ranks) == 1 and 0 not in ranks and trace.have_equal_rows(found)
    if not aligned or any(_meets_rows(x, max(ranks)) for x in arrays):
        return mapped_operation(trace, members, *args, **kwargs)
    if layouts == {GROUPED} and len({tuple(x.shape) for x in found}) == 1 and not arrays:
        return _call_operation(trace, members, GROUPED, args, kwargs)
    return _call_operation(trace, members, SHARED if layouts == {SHARED} else FOLDED, args, kwargs)


def _arrays(args, kwargs):
    """The constants with axes among a call's arguments."""
    return [x for x in keras.tree.flatten((args, kwargs)) if getattr(x, "shape", ()) and not is_symbolic(x)]


def _meets_rows(constant, rank):
    return len(constant.shape) > rank or (len(constant.shape) == rank and constant.shape[0] != 1)


def rolled_operation(trace, members, x):
    """`keras.ops.roll`: each row alone. TensorFlow's map rolls along another axis where the axis is negative."""
    axes, rank = keras.tree.flatten(members.template.axis), len(trace.member_shape(x))
    if any(axis is None or axis % rank == 0 for axis in axes):
        return mapped_operation(trace, members, x)
    return _call_operation(trace, members, SHARED if trace.layout(x) is SHARED else FOLDED, (x,), {})


def mapped_operation(trace, members, *args, **kwargs):
    """Any raw operation, mapped over the members; computed once if all of its tensors are shared."""
    if trace.layouts(args, kwargs) == {SHARED}:
        return _call_operation(trace, members, SHARED, args, kwargs)
    args, kwargs = trace.to((args, kwargs), STACKED)
    layer = trace.layer(
        members,
        "mapped operation",
        lambda: MapOperation.from_call(
            members.template, args, kwargs, trace.num_members, name=trace.unique_name(f"multi_{members.path}")
        ),
    )
    return trace.mark(layer(tensors((args, kwargs))), STACKED)


def _call_operation(trace, members, layout, args, kwargs):
    args, kwargs = trace.to((args, kwargs), layout)
    return trace.mark(trace.weightless(members, "operation")(*args, **kwargs), layout)
