"""pack: N Keras models to one MultiModel.

The flow, from top to bottom: open the members; the first is the template; compare each member's config with it and take
its weights; walk the template's graph, with a rule at each layer; put the border at the outputs; check.
"""

import keras

from keras_multiweight.copies import copy_model, matching_weights
from keras_multiweight.layers import plumbing
from keras_multiweight.layouts import Layout
from keras_multiweight.model import MultiModel
from keras_multiweight.packing import table  # noqa: F401  registers the rules
from keras_multiweight.packing.fallback import rule_of
from keras_multiweight.packing.files import open_members
from keras_multiweight.packing.graph import as_functional, count_calls, input_layers, is_graph, walk
from keras_multiweight.packing.match import IncompatibleModelsError, config_differences, weight_differences
from keras_multiweight.packing.progress import with_progress
from keras_multiweight.packing.trace import Trace, tensors
from keras_multiweight.packing.verify import Probe
from keras_multiweight.packing.weights import Members, Stacks, read_weights


def pack(models, *, verify=True, custom_objects=None, safe_mode=True, name=None):
    """Join N trained models of one architecture into one model: one graph, one `predict`.

    Args:
        models: A list of built Functional or Sequential Keras models; or a list of paths of saved ones (`.keras`, `.h5`);
            or a glob string (`"run/*.keras"`, sorted by name, numbers as numbers). Models in memory are left as they
            were. From files the first is built once, and the weights of the others are streamed into place.
        verify: bool. Compare the packed outputs with each member's own, on random inputs, before returning.
        custom_objects: Dict of names to custom classes or functions in the files.
        safe_mode: bool. Refuse Lambda layers, as `keras.models.load_model` does, unless their function is registered.
            Pass False for models whose Python code you trust.
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
    source = open_members(models, custom_objects, safe_mode)
    template = source.template()
    probe = Probe(template) if verify else None
    stacks = collect_weights(source, template, probe)
    multi = build(template, stacks, source.names, name=name, safe_mode=safe_mode)
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


def build(template, stacks, member_names, name=None, member_seeds=None, safe_mode=True):
    """The packed model of a template, from the stacked weights of its members."""
    trace = Trace(len(member_names), safe_mode)
    walker = _Packer(trace, stacks, count_calls(template))
    inputs = [_copy_input(layer, trace.unique_name(layer.name)) for layer in input_layers(template)]
    names = [trace.unique_name(name) for name in as_functional(template).output_names]
    outputs = walker.walk(template, trace.mark(inputs, Layout.SHARED))
    outputs = _with_border(trace, outputs, names)
    member = copy_model(template)
    return MultiModel(
        _in_structure_of(template, inputs),
        outputs,
        member=member,
        member_names=member_names,
        member_seeds=member_seeds,
        slots=[trace.slots[id(weight)] for weight in matching_weights(template, member)],
        plan=trace.plan,
        name=name or f"multi_{template.name}",
    )


class _Packer:
    """Applies the rule of each layer on the way through a model."""

    def __init__(self, trace, stacks, calls):
        self.trace = trace
        self.stacks = stacks
        self.calls = calls

    def walk(self, model, inputs, path=""):
        return walk(model, inputs, lambda operation, args, kwargs: self.visit(operation, args, kwargs, path))

    def visit(self, operation, args, kwargs, path):
        path = f"{path}{operation.name}"
        args, kwargs = self.trace.current((args, kwargs))
        if is_graph(operation):
            return self.walk(operation, tensors(args), f"{path}/")

        def inside(layer, *args, **kwargs):
            return self.visit(layer, args, kwargs, f"{path}/")

        calls = self.calls[id(operation)]
        members = Members(operation, self.trace.num_members, calls, path, self.stacks, pack_inside=inside)
        try:
            return rule_of(operation)(self.trace, members, *args, **kwargs)
        except Exception as error:
            error.add_note(f"while packing layer '{path}' of class {type(operation).__name__}")
            raise


def _copy_input(layer, name):
    return keras.layers.InputLayer.from_config({**layer.get_config(), "name": name}).output


def _in_structure_of(template, inputs):
    if isinstance(template, keras.Sequential):
        return inputs[0]
    return keras.tree.pack_sequence_as(template.input, inputs)


def _with_border(trace, outputs, names):
    """What leaves is batch-first, `(B, N, ...)`, because Keras slices and joins axis 0."""
    names = list(names)

    def border(x):
        if not trace.member_shape(x):
            raise ValueError(
                "Every output of a packed model must have a batch axis, which Keras joins the batches on. Received: an "
                f"output of shape () from '{names[0]}'. Keep an axis (keepdims=True), or reduce outside of the model."
            )
        layer = plumbing.MembersToBatch(trace.num_members, name=names.pop(0), dtype=x.dtype)
        return layer(trace.to(x, Layout.STACKED))

    return keras.tree.map_structure(border, outputs)


def _raise_if(differences):
    if differences:
        raise IncompatibleModelsError(differences)
