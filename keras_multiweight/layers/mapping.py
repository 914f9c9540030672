"""Run any Keras layer once a member: mapped over the members' weights, or unrolled."""

import contextlib
import inspect

import keras
import numpy as np
from keras import ops, tree

from keras_multiweight.copies import adapted_layers
from keras_multiweight.layers.lowerings import writes_over_shared
from keras_multiweight.layers.plumbing import PACKAGE, stack_shared


def is_tensor(x):
    return isinstance(x, (keras.KerasTensor, np.ndarray)) or ops.is_tensor(x)


def map_members(layer, args, kwargs, lowering="vectorized"):
    """Call the member of a `MultiLayer` once with each member's weights.

    Args:
        layer: A built `MultiLayer`.
        args, kwargs: What the member is called with. Tensors are `(N, B, ...)`, or `(B, ...)` if `layer.shared_input`.
        lowering: `"vectorized"` maps with `keras.ops.vectorized_map`; `"unrolled"` lays N calls side by side.

    Returns:
        The member's outputs with the members first, in the same structure. Weights that the call assigned (moving
        statistics, seed states) are assigned in `layer`.
    """
    tensors = _own_tensors(layer, args, kwargs)
    variables = layer.stacked_weights + layer.stacked_seeds
    templates = layer.templates() if lowering == "unrolled" else [layer.template()]
    originals = layer.template().weights + seed_states(layer.template())
    values = [ops.reshape(v, (layer.num_members, *original.shape)) for v, original in zip(variables, originals)]
    calls = [_stateless_call(template, args, kwargs, len(templates) > 1) for template in templates]
    if not tensors and not values:  # all members compute the same
        results = calls[0]([[], []])
        outputs, _, losses = tree.map_structure(lambda x: stack_shared(x, layer.num_members), results)
    else:
        outputs, updates, losses = _mapped(calls, tensors, values, layer.num_members, lowering)
        for index, update in zip(calls[0].assigned, updates):
            variables[index].assign(ops.reshape(update, variables[index].shape))
        layer.assigned = tuple(calls[0].assigned)
    for loss in losses:  # of add_loss and of activity regularisers inside: one number a member
        layer.add_loss(ops.sum(ops.reshape(loss, (layer.num_members, -1)), axis=1))
    return outputs


def _own_tensors(layer, args, kwargs):
    """The arguments that are mapped, `(N, B, ...)`: none, where all members read the same, but on torch in training."""
    tensors = [x for x in tree.flatten((args, kwargs)) if is_tensor(x)]
    if not layer.shared_input:
        return tensors
    return [stack_shared(x, layer.num_members) for x in tensors] if writes_over_shared(kwargs.get("training")) else []


def _mapped(calls, tensors, values, num_members, lowering):
    if len(calls) > 1:
        return _unrolled(calls, tensors, values)
    return map_stateless(calls[0], tensors, values, num_members, lowering)


def _stateless_call(template, args, kwargs, is_one_of_many):
    """The call of a member. Where others make other calls, all say the states of their draws, whether they draw or not."""
    seeds = seed_states(template)
    call = _MemberCall(template, args, kwargs)
    return StatelessCall(call, template.weights + seeds, told=seeds if is_one_of_many else (), scope=LeafScope)


def map_stateless(call, tensors, values, num_members, lowering="vectorized"):
    """Run a `StatelessCall` once with each member's tensors and values, both lists of `(N, ...)` tensors."""
    if lowering == "vectorized":
        return ops.vectorized_map(call, [tensors, values])
    return _unrolled([call] * num_members, tensors, values)


def _unrolled(calls, tensors, values):
    """The same with a call for each member, side by side."""
    results = [call([[t[i] for t in tensors], [v[i] for v in values]]) for i, call in enumerate(calls)]
    return tree.map_structure(lambda *xs: ops.stack(xs), *results)


class StatelessCall:
    """A function that reads and assigns Keras variables, as a pure function of its tensors and the variables' values.

    Args:
        function: Takes a list of tensors.
        variables: The Keras variables whose values come from outside.
        told: Those of them whose values are returned even where the function does not assign them.
        scope: The class of the scope in which the function runs.

    Returns of a call on `[tensors, values]`:
        What `function` returns; the new values of the variables that it assigned; what it gave to `add_loss`.

    Attributes:
        assigned: Which of the variables the function assigns, by number; known once it has run.
    """

    def __init__(self, function, variables, told=(), scope=keras.StatelessScope):
        self.function = function
        self.scope = scope
        self.variables = variables
        self.told = {id(v) for v in told}
        self.assigned = []

    def __call__(self, elements):
        tensors, values = elements
        with self.scope(list(zip(self.variables, values)), collect_losses=True) as scope:
            before = [scope.get_current_value(v) for v in self.variables]
            outputs = self.function(tensors)
            after = [scope.get_current_value(v) for v in self.variables]
        triples = enumerate(zip(self.variables, before, after))
        self.assigned = [i for i, (variable, old, new) in triples if new is not old or id(variable) in self.told]
        return outputs, [after[i] for i in self.assigned], list(scope.losses)


class LeafScope(keras.StatelessScope):
    """A scope in which what a layer assigns to a variable has no past.

    On TensorFlow and torch no gradient flows through what was computed for a variable, statistics, say; a trained weight
    that was assigned, as SpectralNormalization's kernel is, has the gradient of its new value. On JAX Keras itself computes
    in a `StatelessScope`, through which it flows.
    """

    def add_update(self, update):
        variable, value = update
        if keras.backend.backend() != "jax":
            value = ops.stop_gradient(value)
            if variable.trainable:
                old = self.get_current_value(variable)
                value = value + (old - ops.stop_gradient(old))  # zero, but for its gradient
        super().add_update((variable, value))


@keras.saving.register_keras_serializable(PACKAGE)
class CarryMask(keras.layers.Layer):
    """Puts a mask on a tensor."""

    def __init__(self, name="carry_mask", **kwargs):
        super().__init__(name=name, **kwargs)
        self.autocast = False
        self.supports_masking = True
        self.built = True

    def call(self, inputs, mask=None):
        return inputs


class ReadMask(keras.layers.Layer):
    """Finds the mask that Keras keeps for a tensor: on the tensor, or, for JAX's tracers, in a table of its own."""

    def __init__(self):
        super().__init__(name="read_mask")
        self.autocast = False
        self.supports_masking = True
        self.built = True

    def call(self, inputs, mask=None):
        self.found[:] = [mask]
        return inputs

    def of(self, x):
        """The mask of a tensor, or None."""
        self.found = []
        self(x)
        return self.found[0]


class _MemberCall:
    """One member's call on the tensors among its arguments.

    With masks as arguments and on the tensors: some layers read only what is on the tensor.
    """

    def __init__(self, member, args, kwargs):
        self.member = member
        self.structure = (args, kwargs)

    def __call__(self, tensors):
        args, kwargs = self._filled(tensors)
        member, carry = self.member, CarryMask()
        kwargs = accepted(member, kwargs)
        names = list(inspect.signature(member.call).parameters)
        arguments = {**dict(zip(names, args)), **kwargs}
        for name, x in arguments.items():
            mask = kwargs.get(f"{name}_mask", kwargs.get("mask") if name == names[0] else None)
            if is_tensor(x) and is_tensor(mask):
                arguments[name] = carry(x, mask=mask)
        args = [arguments.pop(name) for name in names[: len(args)]]
        with constants_from_weights(member):
            return member(*args, **arguments)

    def _filled(self, tensors):
        if not tensors:
            return self.structure
        supply = iter(tensors)
        filled = [next(supply) if is_tensor(x) else x for x in tree.flatten(self.structure)]
        return tree.pack_sequence_as(self.structure, filled)  # `map_structure` takes dicts in another order


@contextlib.contextmanager
def constants_from_weights(layer):
    """Normalization layers compute with constants that they made from their weights: here from the weights as they are."""
    before = [(adapted, adapted.mean, adapted.variance) for adapted in adapted_layers(layer)]
    for adapted, *_ in before:
        adapted.finalize_state()
    try:
        yield
    finally:
        for adapted, mean, variance in before:
            adapted.mean, adapted.variance = mean, variance


def seed_states(layer):
    """The states of a layer's seed generators: in `variables`, not in `weights`."""
    weights = {id(v) for v in layer.weights}
    return [v for v in layer.variables if id(v) not in weights]


def accepted(layer, kwargs):
    """Without the arguments that the layer's `call` does not know (`mask`, `training`)."""
    parameters = inspect.signature(layer.call).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return kwargs
    return {key: value for key, value in kwargs.items() if key in parameters}
