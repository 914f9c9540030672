"""pack: N Keras models to one MultiModel.

The flow, from top to bottom: open the members; the first is the template; compare each member's config with it and take
its weights; walk the template's graph, with a rule at each layer; put the border at the outputs; check.
"""

import keras

from keras_multiweight.copies import CannotCopyError, copy_built, matching_weights
from keras_multiweight.layers import plumbing
from keras_multiweight.layers.mapping import CarryMask
from keras_multiweight.layouts import Layout
from keras_multiweight.model import MultiModel
from keras_multiweight.packing import table  # noqa: F401  registers the rules
from keras_multiweight.packing.fallback import fallback
from keras_multiweight.packing.files import open_members
from keras_multiweight.packing.graph import (
    called_with,
    copy_inputs,
    count_calls,
    is_graph,
    output_names,
    takes_training,
    walk,
)
from keras_multiweight.packing.match import IncompatibleModelsError, config_differences, weight_differences
from keras_multiweight.packing.progress import with_progress
from keras_multiweight.packing.trace import Trace
from keras_multiweight.packing.verify import Probe
from keras_multiweight.packing.weights import Members, Stacks, read_weights
from keras_multiweight.registry import find_rule

CHECKED_ROWS = 32  # at most, of example data


def pack(models, *, inputs=None, verify=True, custom_objects=None, name=None):
    """Join N trained models of one architecture into one model: one graph, one `predict`.

    Args:
        models: A list of built Keras models; or a list of paths of saved ones (`.keras`, `.h5`);
            or a glob string (`"run/*.keras"`, sorted by name, numbers as numbers). Models in memory are left as they
            were. From files the first is built once, and the weights of the others are streamed into place.
        inputs: What subclassed models are called with: example data, or `keras.Input` tensors, in the structure that
            `predict` takes. Left out, the shapes that they were built with. Functional and Sequential models say it.
        verify: bool. Compare the packed outputs with each member's own before returning: on random inputs, or on the first
            rows of example data in `inputs`.
        custom_objects: Dict of names to custom classes or functions in the files.
        name: Name of the packed model.

    Returns:
        A `MultiModel`: `multi.predict(x)[:, i]` is what `models[i].predict(x)` gives, for each output.

    Raises:
        IncompatibleModelsError: The models differ in more than the values of their weights; `.differences` says where.
        ValueError: No models, an unbuilt one, something that is no model, or an unreadable file, by name.
        FileNotFoundError: A missing file.
        RuntimeError: The self-check found a difference.

    Example:

    ```python
    multi = kmw.pack(models)
    multi.predict(x).shape  # (rows, len(models), ...)
    ```
    """
    source = open_members(models, custom_objects)
    template = source.template()
    probe = Probe(template, inputs, rows=CHECKED_ROWS) if verify else None
    stacks = collect_weights(source, template, probe)
    multi = build(template, stacks, source.names, name=name, inputs=inputs)
    if verify:
        probe.check(multi)
    return multi


def collect_weights(source, template, probe=None):
    """Compare every member with the template, and stack their weights."""
    stacks = Stacks(template, len(source.names))
    for i, member in enumerate(with_progress(source, len(source.names), "packing")):
        _raise_if(config_differences(member.expected, member.received, i, member.name))
        model = member.load()
        _raise_if(weight_differences(template, model, i, member.name))
        stacks.put(i, read_weights(model))
        if probe:
            probe.record(model)
    return stacks


def build(template, stacks, member_names, name=None, member_seeds=None, inputs=None):
    """The packed model of a template, from the stacked weights of its members."""
    trace = Trace(len(member_names))
    inputs = copy_inputs(template, trace.unique_name, inputs)
    outputs = _Packer(trace, stacks, count_calls(template)).run(template, trace.mark(inputs, Layout.SHARED))
    outputs = _with_border(trace, outputs, [trace.unique_name(name) for name in output_names(template, outputs)])
    member = _copy_or_reason(template)
    weights = template.weights if isinstance(member, CannotCopyError) else matching_weights(template, member)
    return MultiModel(
        inputs,
        outputs,
        member=member,
        member_names=member_names,
        member_seeds=member_seeds,
        slots=[trace.slots[id(weight)] for weight in weights],
        plan=trace.plan,
        name=name or f"multi_{template.name}",
    )


def _copy_or_reason(template):
    """A copy of the template to make members from; or why there is none, for whoever asks for a member."""
    try:
        return copy_built(template)
    except CannotCopyError as error:
        return error


class _Packer:
    """Applies the rule of each layer on the way through a model."""

    def __init__(self, trace, stacks, calls):
        self.trace = trace
        self.stacks = stacks
        self.calls = calls

    def run(self, model, inputs):
        """The packed outputs of a whole model. One that is no graph is packed as one layer."""
        if not is_graph(model):
            return self.visit(model, (inputs,), {}, "")
        return self.walk(model, keras.tree.flatten(inputs))

    def walk(self, model, inputs, path="", training=None):
        def visit(operation, args, kwargs):
            if training is not None and takes_training(operation):
                kwargs = {**kwargs, "training": training}
            return self.visit(operation, args, kwargs, path)

        return walk(model, inputs, visit)

    def visit(self, operation, args, kwargs, path):
        path = f"{path}{operation.name}"
        if is_graph(operation):
            inputs = [self.masked(*pair) for pair in zip(*called_with(operation, args, kwargs))]
            return self.walk(operation, inputs, f"{path}/", kwargs.get("training"))
        members = Members(operation, self.trace.num_members, self.calls[id(operation)], path, self.stacks)
        try:
            return (find_rule(operation) or fallback)(self.trace, members, *args, **kwargs)
        except Exception as error:
            error.add_note(f"while packing layer '{path}' of class {type(operation).__name__}")
            raise

    def masked(self, x, mask):
        """A tensor that carries a mask, which a nested model was called with."""
        if mask is None:
            return x
        layout = Layout.SHARED if self.trace.layouts(x, mask) == {Layout.SHARED} else Layout.FOLDED
        x, mask = self.trace.to((x, mask), layout)
        return self.trace.mark(CarryMask(name=self.trace.unique_name("carry_mask"))(x, mask=mask), layout)


def _with_border(trace, outputs, names):
    """What leaves is batch-first, `(B, N, ...)`, because Keras slices and joins axis 0."""

    def border(x, name):
        if not trace.member_shape(x):
            raise ValueError(
                "Every output of a packed model must have a batch axis, which Keras joins the batches on. Received: an "
                f"output of shape () from '{name}'. Keep an axis (keepdims=True), or reduce outside of the model."
            )
        return plumbing.MembersToBatch(trace.num_members, name=name, dtype=x.dtype)(trace.to(x, Layout.STACKED))

    flat = [border(*pair) for pair in zip(keras.tree.flatten(outputs), names, strict=True)]
    return keras.tree.pack_sequence_as(outputs, flat)


def _raise_if(differences):
    if differences:
        raise IncompatibleModelsError(differences)
