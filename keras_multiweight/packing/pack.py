"""pack: N Keras models to one MultiModel.

The flow, from top to bottom: open the members; the first is the template; compare each member's config with it and take
its weights; walk the template's graph, with a rule at each layer; put the border at the outputs; check.
"""

import keras

from keras_multiweight.copies import CannotCopyError, copy_built, matching_weights
from keras_multiweight.deep import deep_graphs
from keras_multiweight.layers import plumbing
from keras_multiweight.layers.mapping import CarryMask
from keras_multiweight.layouts import Layout
from keras_multiweight.mixed import join
from keras_multiweight.model import MultiModel
from keras_multiweight.packing import (
    kinds,
    table,  # noqa: F401  registers the rules
)
from keras_multiweight.packing.fallback import rule_of
from keras_multiweight.packing.files import listed, open_members
from keras_multiweight.packing.graph import (
    called_with,
    copy_inputs,
    count_calls,
    input_structure,
    is_graph,
    output_names,
    takes_training,
    walk,
)
from keras_multiweight.packing.groups import architecture_key, group_by, groups_of
from keras_multiweight.packing.inputs import at_members, input_flags
from keras_multiweight.packing.match import IncompatibleModelsError, config_differences, model_config
from keras_multiweight.packing.progress import with_progress
from keras_multiweight.packing.settings import Settings, differing
from keras_multiweight.packing.sharing import SharedLayers
from keras_multiweight.packing.trace import Trace, tensors
from keras_multiweight.packing.verify import Probe
from keras_multiweight.packing.weights import Members, Stacks
from keras_multiweight.settings import settings_of
from keras_multiweight.training.resume import compile_like

CHECKED_ROWS = 32  # at most, of example data


@deep_graphs()
def pack(
    models,
    *,
    template=None,
    inputs=None,
    group=False,
    share="equal",
    member_inputs=False,
    optimizer=False,
    verify=True,
    custom_objects=None,
    safe_mode=True,
    name=None,
    tune=None,
):
    """Join N trained models of one architecture into one model: one graph, one `predict`.

    The models may differ in the values of their weights, and in the rates of layers that draw in training (dropout, noise),
    of which each member keeps its own.

    Args:
        models: A list of built Keras models; or a list of paths of saved ones (`.keras`, `.h5`,
            `.hdf5`) or of weights (`.weights.h5`); or a folder, or a glob string (`"run/*.keras"`), whose files are sorted
            by name, numbers as numbers. Models in memory are left as they were. From files one model is built, and the
            weights of the others are streamed into place.
        template: The architecture of files that hold only weights: a Keras model, which is left as it was, or the path of
            a saved model or of a config (`model.to_json()`). Left out, a config beside the weights is taken, of the name
            of the weights or `model.json`. Files that say their architecture must have the template's.
        inputs: What subclassed models are called with: example data, or `keras.Input` tensors, in the structure that
            `predict` takes. Left out, the shapes that they were built with. Functional and Sequential models say it.
        group: bool. Take models of different architectures too: each architecture is packed, and the groups are joined in
            one model with one `predict`, a `MixedMultiModel`. They must take the same inputs and give outputs of the same
            shapes.
        share: What all members compute alike is stored and computed once: layers whose weights are the same bits in all
            members, on inputs that all members share, such as the common trunk of fine-tuned heads. `"equal"`, the
            default, finds all of them; a model with a shared layer that can train, or that draws random numbers in
            training, predicts but is not trained. `"frozen"` leaves those layers apart. `None` keeps N copies of
            everything. `multi.plan()` says what is shared; `unpack` gives whole models all the same.
        member_inputs: bool. Each member reads inputs of its own, `(B, N, ...)`, in `predict` and in training; or a structure
            of bools as the inputs, where some are of each member and some serve all.
        optimizer: bool. Compile the packed model as the models are compiled, with the state of each one's optimizer, so
            that they train on together as they would alone. They must be models in memory that have taken equally many
            steps with equal losses and metrics; their optimizers may differ.
        verify: bool. Compare the packed outputs with each member's own before returning: on random inputs, or on the first
            rows of example data in `inputs`.
        custom_objects: Dict of names to custom classes or functions in the files. Registered ones
            (`keras.saving.register_keras_serializable`) are known without it. Files bring no code of their own.
        safe_mode: bool. Refuse Lambda layers, unless their function is registered. Pass False for models in memory whose
            Python code you trust. Files with a Lambda are never read: load them by Keras, and pack the models.
        name: Name of the packed model.
        tune: Arrays as `predict` takes them. The fastest way to predict them here is found by trying: `multi.tune(tune)`.

    Returns:
        A `MultiModel`: `multi.predict(x)[:, i]` is what `models[i].predict(x)` gives, for each output.

    Raises:
        IncompatibleModelsError: The models differ in more than the values of their weights; `.differences` says where.
        ValueError: No models, an unbuilt one, something that is no model, an unreadable file, or one that asks for code or
            for bytes from elsewhere, by name.
        FileNotFoundError: A missing file.
        RuntimeError: The self-check found a difference.

    Example:

    ```python
    multi = kmw.pack(models)
    multi.predict(x).shape  # (rows, len(models), ...)
    ```
    """
    if group and len(groups := groups_of(models, custom_objects, template)) > 1:
        _refuse_member_inputs(member_inputs)
        options = {
            "inputs": inputs,
            "share": share,
            "optimizer": optimizer,
            "verify": verify,
            "custom_objects": custom_objects,
            "safe_mode": safe_mode,
        }
        packed = [pack(members, name=f"group_{k}", **options) for k, (_, members) in enumerate(groups)]
        return _tuned(join(packed, [numbers for numbers, _ in groups], name), tune)
    models = listed(models)
    if optimizer:
        _check_in_memory(models)
    source = open_members(models, custom_objects, template)
    template = source.template()
    flags = input_flags(member_inputs, input_structure(template, inputs))
    probe = Probe(template, inputs, CHECKED_ROWS, flags, len(source.names)) if verify else None
    stacks = collect_weights(source, template, probe)
    multi = build(template, stacks, source.names, share, name, inputs=inputs, flags=flags, safe_mode=safe_mode)
    if verify:
        probe.check(multi)
    if optimizer:
        compile_like(multi, models, custom_objects)
    return _tuned(multi, tune)


def _tuned(multi, x):
    if x is not None:
        multi.tune(x)
    return multi


def _check_in_memory(models):
    if not all(isinstance(model, keras.Model) for model in models):
        raise ValueError(
            "Optimizers are taken from models in memory. Received: paths and optimizer=True. Load the models with "
            "keras.models.load_model first."
        )


def collect_weights(source, template, probe=None):
    """Compare every member with the template, and stack their weights."""
    stacks = Stacks(template, len(source.names))
    found, configs, settings = [], [], []
    for i, member in enumerate(with_progress(source, len(source.names), "packing")):
        configs.append(member.received)
        settings.append(member.settings)
        weights, differences = read_alike(member, i)
        if found := found + differences:
            continue  # to the end, so that the error tells all
        stacks.put(i, weights)
        if probe:
            probe.record(member.load())
    if found:
        raise IncompatibleModelsError(found, group_by(map(architecture_key, configs)))
    stacks.settings = differing(settings_of(model_config(template)), settings)
    return stacks


def read_alike(member, i):
    """The weights of member `i`, and where it differs from the template."""
    differences = config_differences(member.expected, member.received, i, member.name)
    if differences:
        return None, differences
    try:
        return member.weights(), []
    except IncompatibleModelsError as error:
        return None, error.differences


def _refuse_member_inputs(member_inputs):
    if any(keras.tree.flatten(member_inputs)):
        raise ValueError(
            "Models of several architectures read the same inputs. Received: member_inputs and group=True. Pack each "
            "architecture by itself."
        )


def build(template, stacks, member_names, share, name=None, *, member_seeds=None, inputs=None, flags=(), safe_mode=True):
    """The packed model of a template, from the stacked weights of its members. `flags` are those of `packing/inputs.py`."""
    trace = Trace(len(member_names), safe_mode)
    settings = Settings(template, stacks.settings)
    packer = _Packer(trace, stacks, settings, SharedLayers(template, stacks, share, settings), count_calls(template))
    inputs = copy_inputs(template, trace.unique_name, inputs, [(trace.num_members,) if flag else () for flag in flags])
    outputs = packer.run(template, at_members(trace, inputs, flags))
    settings.check_taken(member_names)
    outputs = _with_border(trace, outputs, [trace.unique_name(name) for name in output_names(template, outputs)])
    member = _copy_or_reason(template)
    weights = template.weights if isinstance(member, CannotCopyError) else matching_weights(template, member)
    return MultiModel(
        inputs,
        outputs,
        member=member,
        member_names=member_names,
        member_seeds=member_seeds,
        member_inputs=list(flags),
        member_settings=settings.values,
        slots=[trace.slots[id(weight)] for weight in weights],
        plan=trace.plan,
        name=name or f"multi_{template.name}",
    )


def _copy_or_reason(template):
    """A copy of the template to make members from; or why there is none, for whoever asks for a member."""
    try:
        return copy_built(template)
    except CannotCopyError as error:
        error.model_class = type(template)
        return error


class _Packer:
    """Applies the rule of each layer on the way through a model."""

    def __init__(self, trace, stacks, settings, shared, calls):
        self.trace = trace
        self.stacks = stacks
        self.settings = settings
        self.shared = shared
        self.calls = calls
        self.ends = {}  # id of a layer that is called again -> a tensor of its last call

    def run(self, model, inputs):
        """The packed outputs of a whole model. One that is no graph is packed as one layer."""
        if not is_graph(model):
            return self.visit(model, (inputs,), {}, "")
        return self.walk(model, keras.tree.flatten(inputs))

    def walk(self, model, inputs, path="", training=None):
        def visit(operation, args, kwargs):
            if training is not None and takes_training(operation):
                kwargs = {**kwargs, "training": training}
            return keras.tree.flatten(self.visit(operation, args, kwargs, path))

        return walk(model, inputs, visit)

    def visit(self, operation, args, kwargs, path):
        path = f"{path}{operation.name}"
        args, kwargs = self.trace.current((args, kwargs))
        if is_graph(operation):
            inputs = [self.masked(*pair) for pair in zip(*called_with(operation, args, kwargs))]
            return self.walk(operation, inputs, f"{path}/", kwargs.get("training"))

        def inside(layer, *args, **kwargs):
            return self.visit(layer, args, kwargs, f"{path}/")

        calls = self.calls[id(operation)]
        if calls > 1 and keeps_statistics(operation):
            args = self.in_turn(operation, args)
        members = Members(operation, self.trace.num_members, calls, path, self.stacks, self.settings, pack_inside=inside)
        try:
            outputs = self.rule(operation, args, kwargs)(self.trace, members, *args, **kwargs)
        except Exception as error:
            error.add_note(f"while packing layer '{path}' of class {type(operation).__name__}")
            raise
        self.ends[id(operation)] = next(iter(tensors(outputs)), None)
        return outputs

    def in_turn(self, operation, args):
        """Arguments of a layer that are there after its last call: Keras calls those of equal depth in one order or another,
        and what moves statistics first counts less in the end.
        """
        end, flat = self.ends.get(id(operation)), tensors(args)
        if end is None or not flat:
            return args
        later = plumbing.InTurn(name=self.trace.unique_name("in_turn"))([flat[0], end])
        self.trace.mark(later, self.trace.layout(flat[0]))
        return keras.tree.map_structure(lambda x: later if x is flat[0] else x, args)

    def rule(self, operation, args, kwargs):
        alike = id(operation) in self.shared and self.trace.layouts(args, kwargs) == {Layout.SHARED}
        return kinds.shared if alike else rule_of(operation)

    def masked(self, x, mask):
        """A tensor that carries a mask, which a nested model was called with."""
        if mask is None:
            return x
        layout = Layout.SHARED if self.trace.layouts(x, mask) == {Layout.SHARED} else Layout.FOLDED
        x, mask = self.trace.to((x, mask), layout)
        return self.trace.mark(CarryMask(name=self.trace.unique_name("carry_mask"))(x, mask=mask), layout)


def keeps_statistics(layer):
    """Whether a layer has weights that it changes itself in training."""
    return isinstance(layer, keras.layers.Layer) and layer.trainable and bool(layer.non_trainable_weights)


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
