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


# ---- what all members have in common ----


def shared(trace, members, *args, **kwargs):
    """An ordinary layer: its weights are equal in all members, and so are its inputs."""
    return trace.mark(trace.ordinary(members, "shared")(*args, **kwargs), SHARED)


# ---- layers without weights ----


ROWS_ALONE = set()  # the rules of layers that never let rows meet


def _treats_rows_alone(rule):
    ROWS_ALONE.add(rule)
    return rule


@_treats_rows_alone
def elementwise(trace, members, *args, **kwargs):
    """Each number alone: in whatever layout it comes."""
    return _weightless(trace, members, "elementwise", _one_of(trace, args, kwargs, (SHARED, FOLDED, GROUPED)), args, kwargs)


@_treats_rows_alone
def rowwise(trace, members, *args, **kwargs):
    """Each row alone: members are more rows."""
    if not trace.have_equal_rows(args, kwargs) or _works_along_rows(
        members.template, len(trace.member_shape(tensors(args)[0]))
    ):
        return vectorized(trace, members, *args, **kwargs)
    return _weightless(trace, members, "rowwise", _one_of(trace, args, kwargs, (SHARED, FOLDED)), args, kwargs)


def channelwise_by(layer_class):
    """Never mixes channels: members may be more channels, if these are last. `layer_class`: another class for the layer."""

    @_treats_rows_alone
    def rule(trace, members, *args, **kwargs):
        last = getattr(members.template, "data_format", None) in (None, "channels_last")
        allowed = (SHARED, FOLDED, GROUPED) if last else (SHARED, FOLDED)
        return _weightless(trace, members, "channelwise", _one_of(trace, args, kwargs, allowed), args, kwargs, layer_class)

    return rule


channelwise = channelwise_by(None)


@_treats_rows_alone
def merging(trace, members, *args, **kwargs):
    """Joins tensors number by number: grouped if all are, with equal shapes."""
    if not trace.have_equal_rows(args, kwargs):
        return vectorized(trace, members, *args, **kwargs)
    shapes = {tuple(x.shape) for x in tensors(args)}
    allowed = (SHARED, FOLDED, GROUPED) if len(shapes) == 1 else (SHARED, FOLDED)
    return _weightless(trace, members, "merging", _one_of(trace, args, kwargs, allowed), args, kwargs)


@_treats_rows_alone
def random(trace, members, *args, **kwargs):
    """Draws for each number: a shared input is no longer shared, because every member draws its own."""
    if not members.template.variables:  # a rate of zero
        return elementwise(trace, members, *args, **kwargs)
    return _weightless(trace, members, "random", _one_of(trace, args, kwargs, (FOLDED, GROUPED)), args, kwargs)


@_treats_rows_alone
def dropout(trace, members, *args, **kwargs):
    """Draws for each number, or one draw for several: not across rows, which may be of different members."""
    noise_shape = members.template.noise_shape
    if noise_shape is None or not members.template.variables:
        return random(trace, members, *args, **kwargs)
    rule = random_rows if noise_shape[0] is None else unrolled
    return rule(trace, members, *args, **kwargs)


def each_own(multi_class, rule):
    """Settings that may differ, as a rate does: by a rule where all members have the same, else by a MultiLayer."""

    def by_settings(trace, members, *args, **kwargs):
        if not members.settings:
            return rule(trace, members, *args, **kwargs)
        return _stacked(trace, members, "random", multi_class, args, kwargs)

    return _treats_rows_alone(by_settings)


@_treats_rows_alone
def random_rows(trace, members, *args, **kwargs):
    """Draws for each row: members are more rows."""
    return _weightless(trace, members, "random", FOLDED, args, kwargs)


@_treats_rows_alone
def activation(trace, members, *args, **kwargs):
    """An Activation layer: elementwise, along the channels as softmax is, or anything."""
    if is_elementwise(members.template.activation):
        return elementwise(trace, members, *args, **kwargs)
    return (rowwise if has_known_activation(members.template) else vectorized)(trace, members, *args, **kwargs)


def has_known_activation(layer):
    """Keras's own activations treat each row alone; a custom function may do anything."""
    return getattr(getattr(layer, "activation", None), "__module__", "keras.").startswith("keras.")


def _weightless(trace, members, kind, layout, args, kwargs, layer_class=None):
    if getattr(members.template, "activity_regularizer", None) is not None:
        return vectorized(trace, members, *args, **kwargs)  # Keras divides the penalty by the rows it sees
    args, kwargs = trace.to((args, kwargs), layout)
    return trace.mark(trace.ordinary(members, kind, layer_class)(*args, **kwargs), layout)


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


def weighted(multi_class, rows_alone=False):
    """A MultiLayer that computes with the members first; `rows_alone` if rows never meet, in training neither."""

    def rule(trace, members, *args, **kwargs):
        return _stacked(trace, members, "weighted", multi_class, args, kwargs)

    return _treats_rows_alone(rule) if rows_alone else rule


def mask_eating(rule):
    """Of a layer that takes the masks off its inputs as it runs: Keras's later layers get the same tensors without."""

    def eating(trace, members, *args, **kwargs):
        outputs = rule(trace, members, *args, **kwargs)
        trace.drop_masks((args, kwargs))
        return outputs

    return eating


def filtered(multi_class):
    """A MultiLayer that computes with the members joined with the channels."""

    @_treats_rows_alone
    def rule(trace, members, *args, **kwargs):
        if members.template.data_format != "channels_last":
            return unrolled(trace, members, *args, **kwargs)
        shared = _is_shared(trace, members, args, kwargs)
        if not shared:
            args, kwargs = trace.to((args, kwargs), GROUPED)
        layer = trace.multi(members, "filtered", multi_class, member_axis=-1, shared_input=shared)
        return trace.mark(layer(*args, **kwargs), GROUPED)

    return rule


def weighted_or_filtered(multi_class, rows_alone=False):
    """A MultiLayer for both: grouped among convolutions, members first elsewhere."""

    def rule(trace, members, x, *args, **kwargs):
        made = trace.layers.get(id(members.template))
        alone = not tensors((args, kwargs)) and not mask_of(x)
        grouped = trace.layout(x) is GROUPED and alone and multi_class.takes_channels(members.template, len(x.shape))
        if made.member_axis == -1 if made else grouped:
            layer = trace.multi(members, "filtered", multi_class, member_axis=-1)
            return trace.mark(layer(trace.to(x, GROUPED), *args, **kwargs), GROUPED)
        return _stacked(trace, members, "weighted", multi_class, (x, *args), kwargs)

    return _treats_rows_alone(rule) if rows_alone else rule


def adapted(multi_class):
    """Weights that `adapt` computed; without them the layer is alike in all members."""

    def rule(trace, members, *args, **kwargs):
        return (weighted(multi_class) if members.template.weights else rowwise)(trace, members, *args, **kwargs)

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


def trusted(trace, members, *args, **kwargs):
    """A Lambda, whose Python nobody can check or compare: mapped if it may run."""
    function = members.template.function
    if trace.safe_mode and keras.saving.get_registered_object(keras.saving.get_registered_name(function)) is not function:
        raise ValueError(
            "A Lambda layer runs Python code that no config describes, and is packed only if you say that you trust it. "
            f"Received: '{members.path}'. Pass pack(..., safe_mode=False), register its function with "
            "keras.saving.register_keras_serializable, or write a layer of your own."
        )
    return vectorized(trace, members, *args, **kwargs)


def refused(reason):
    """A layer that cannot hold members."""

    def rule(trace, members, *args, **kwargs):
        raise ValueError(f"A {type(members.template).__name__} layer cannot be packed. Received: '{members.path}'. {reason}")

    return rule


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
    return trace.mark(trace.ordinary(members, "operation")(*args, **kwargs), layout)
