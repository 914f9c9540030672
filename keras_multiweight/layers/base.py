"""MultiLayer: what a member axis does to one Keras layer.

A `MultiLayer` keeps one ordinary Keras layer, the *member*, as the authority on everything that has no member axis: the
arguments, the config, the shapes and the names of the weights. It owns one variable for each weight of the member, with
the members along axis 0, and computes with these. A subclass writes only `call`.
"""

import inspect

import keras
import numpy as np
from keras import ops, tree

from keras_multiweight.copies import build_by_plan, build_plan, copy_layer, is_custom, set_all_weights, unshared
from keras_multiweight.layers import plumbing
from keras_multiweight.layers.checks import check_alike, check_options, check_settings
from keras_multiweight.layers.choice import ChoosesLowering
from keras_multiweight.layers.mapping import accepted, is_tensor, map_members, seed_states
from keras_multiweight.layers.own_settings import OwnSettings
from keras_multiweight.layers.per_member import (
    MemberActivityRegularizer,
    MemberConstraint,
    MemberDraws,
    MemberRegularizer,
    MemberValues,
)

OPTIONS = ("num_members", "member_axis", "shared_input", "lowering", "member_settings")


class _Hidden:
    """What Keras must not track: the member is no sublayer, and its own weight values are neither saved nor trained."""

    def __init__(self, member, num_members):
        self.member = member
        self.config = _config(member)
        self.settings = {}  # those of the config that differ from member to member, as lists
        self.templates = [member]  # see OwnSettings
        self.weights = []
        self.seeds = []
        self.input_shape = None  # of one member, where the layer is in a graph
        self.stack = plumbing.StackMembers(num_members)
        self.fold = plumbing.FoldMembers(num_members)
        self.unfold = plumbing.UnfoldMembers(num_members)
        self.to_batch = plumbing.MembersToBatch(num_members)
        self.to_members = plumbing.BatchToMembers(num_members)


class MultiLayer(ChoosesLowering, OwnSettings, keras.layers.Layer):
    """Base of the layers that hold N weight sets of one Keras layer.

    Args:
        *args: The arguments of `member_class`, as the subclass's signature says.
        member: In place of these arguments: a Keras layer of `member_class`, of which a copy is taken.
        num_members: int, N.
        member_axis: Where the member axis of inputs and outputs is: 1 (default) for `(B, N, ...)`, 0 for `(N, B, ...)`,
            -1 for members joined with the channels, `(B, ..., N*C)`, where a layer offers it.
        shared_input: bool. The inputs have no member axis: all members read the same.
        lowering: One of `lowerings()`, to force an implementation; None (default) leaves the choice to the table of costs.
        member_settings: Where members differ in an argument of `settings_names`: a dict of its name to the N values.
        **kwargs: More arguments of `member_class`.
    """

    member_class = None
    flat_weights = ()  # names of weights stored as (N*rows, ...) in place of (N, rows, ...)
    member_axes = (0, 1)
    lowering_names = ("vectorized", "unrolled")  # of `map_members`

    @classmethod
    def takes_channels(cls, member, rank):
        """Whether `member_axis=-1` serves a layer with inputs of this rank, where a class offers it."""
        return -1 in cls.member_axes

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "call" in vars(cls) and "lowering_names" not in vars(cls):
            cls.lowering_names = ()
        if cls.member_class is not None:
            cls.__signature__ = _joined_signature(cls.member_class)

    def __init__(
        self,
        *args,
        member=None,
        num_members,
        member_axis=1,
        shared_input=False,
        lowering=None,
        member_settings=None,
        **kwargs,
    ):
        name = kwargs.pop("name", None)
        member = self._own(member) if isinstance(member, keras.layers.Layer) else self.member_class(*args, **kwargs)
        check_options(type(self), member, num_members, member_axis)
        check_settings(type(self), member_settings, num_members)
        super().__init__(name=name, trainable=member.trainable, dtype=member.dtype_policy)
        self._hidden = _Hidden(member, num_members)
        self.num_members = num_members
        self.member_axis = member_axis
        self.shared_input = shared_input
        self.lowering = lowering
        self._hidden.settings = {key: list(values) for key, values in (member_settings or {}).items()}
        self.assigned = ()  # numbers of the weights that the last call assigned, if it was mapped over the members
        self.autocast = member.autocast
        self.supports_masking = member.supports_masking
        if member.activity_regularizer is not None:
            self.activity_regularizer = MemberActivityRegularizer(member.activity_regularizer, num_members, member_axis)
            member.activity_regularizer = None

    def template(self):
        """The Keras layer that says what one member is. Its own weight values mean nothing.

        A method: Keras saves what it finds in the properties of a layer.
        """
        return self._hidden.member

    @property
    def stacked_weights(self):
        """The variables with the members along axis 0, in the order of the member's `weights`."""
        return list(self._hidden.weights)

    @property
    def stacked_seeds(self):
        """The `(N, 2)` states of the member's seed generators."""
        return list(self._hidden.seeds)

    def __getattr__(self, name):
        hidden = self.__dict__.get("_hidden")
        if hidden is not None and name in hidden.config:
            return hidden.settings.get(name, getattr(hidden.member, name))
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def _own(self, member):
        """The copy of a given member that this layer keeps."""
        return copy_layer(member)

    # ---- build ----

    def __call__(self, *args, **kwargs):
        if not self.built:
            self._member_outputs(args, kwargs)  # builds the member, whatever its arguments are
            self.build()
        return super().__call__(*args, **kwargs)

    def build(self, input_shape=None, values=None):
        if not self.template().built:
            self.template().build(self._member_shape(tuple(input_shape)))
        values = values or MemberDraws(self.template(), self.num_members)
        weights, seeds = self.template().weights, seed_states(self.template())
        names = iter(_names([*weights, *seeds], self.template()))
        for index, weight in enumerate(weights):
            self._hidden.weights.append(self._add_stacked(weight, next(names), lambda k=index: values.value(k)))
        draws = MemberDraws(self.template(), self.num_members)
        for state in seeds:
            self._hidden.seeds.append(self._add_stacked(state, next(names), lambda state=state: draws.seed(state)))
        self.make_templates()
        self.built = True

    def _add_stacked(self, weight, name, value):
        stacked_shape = (self.num_members, *weight.shape)
        regularizer, constraint = getattr(weight, "regularizer", None), getattr(weight, "constraint", None)
        variable = self.add_weight(
            shape=(stacked_shape[0] * stacked_shape[1], *stacked_shape[2:]) if name in self.flat_weights else stacked_shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(np.ascontiguousarray(value()).reshape(shape), dtype),
            dtype=weight.dtype,
            trainable=_is_trainable(weight, self.template()),
            autocast=False,  # each computation casts for itself, as its member does
            regularizer=regularizer and MemberRegularizer(regularizer, stacked_shape),
            constraint=constraint and MemberConstraint(constraint, stacked_shape),
            name=name,
        )
        if not hasattr(type(self), name):
            setattr(self, name, variable)
        return variable

    # ---- members in and out ----

    @classmethod
    def from_member_layers(cls, layers, **options):
        """Join N built Keras layers into one layer.

        Args:
            layers: List of N built layers of one class, with equal configs (names aside) and equal weight shapes.
            **options: `member_axis`, `shared_input`, `name`.

        Returns:
            A built layer whose `member_layer(i)` has the weights of `layers[i]`.

        Raises:
            ValueError: No layers, unbuilt ones, or layers that differ in more than the values of their weights.

        Example:

        ```python
        trained = [model.get_layer("hidden") for model in models]
        multi = kmw.layers.MultiDense.from_member_layers(trained)
        ```
        """
        layers = list(layers)
        check_alike(layers, cls.settings_names)
        stacks = [np.stack(values) for values in zip(*(layer.get_weights() for layer in layers))]
        return cls.from_stacked(layers[0], stacks, len(layers), member_settings=cls.settings_in(layers), **options)

    @classmethod
    def from_stacked(cls, member, stacks, num_members, **options):
        """Build from a built Keras layer and, for each of its weights, the `(N, ...)` array of the members' values.

        The list `stacks` is emptied while the variables are made, so that no value is held twice.
        """
        layer = cls(member=member, num_members=num_members, **options)
        build_by_plan(layer.template(), build_plan(member))
        layer.build(values=MemberValues(stacks))
        return layer

    def member_layer(self, i):
        """Member `i` as an ordinary built Keras layer with its weights."""
        if not self.built:
            raise ValueError(f"A layer must be built before a member is taken out. Received: unbuilt '{self.name}'.")
        layer = copy_layer(self.template(), self.member_config(i))
        build_by_plan(layer, build_plan(self.template()))
        set_all_weights(layer, [self.member_value(index, i) for index in range(len(self._hidden.weights))])
        return layer

    def member_value(self, index, i):
        """The value of the member's weight number `index` in member `i`, as a NumPy array."""
        variable, weight = self._hidden.weights[index], self.template().weights[index]
        rows = variable.shape[0] // self.num_members
        i = range(self.num_members)[i]
        return np.reshape(ops.convert_to_numpy(variable.value[i * rows : (i + 1) * rows]), weight.shape)

    def stacked_value(self, index):
        """The values of the member's weight number `index` in all members, a NumPy array `(N, ...)`."""
        shape = self.template().weights[index].shape
        return np.reshape(ops.convert_to_numpy(self._hidden.weights[index]), (self.num_members, *shape))

    def set_member_value(self, index, i, value):
        """Set the member's weight number `index` in member `i` from an array."""
        variable, stacked = self._hidden.weights[index], self.stacked_value(index).copy()
        stacked[i] = value
        variable.assign(np.reshape(stacked, variable.shape))

    def member_config(self, i=None):
        """The config of a member, an ordinary Keras layer: of member `i`, or of what all have in common."""
        own = {} if i is None else {key: values[i] for key, values in self._hidden.settings.items()}
        trainable = {"trainable": self.trainable} if "trainable" in self._hidden.config else {}
        return {**self._hidden.config, **trainable, **own}

    # ---- call ----

    def run(self, compute, *args, **kwargs):
        """Call `compute` with the members first in all tensors, and bring its outputs back to this layer's member axis.

        With `shared_input` the tensors come as they are, `(B, ...)`. With `member_axis=-1` nothing is moved.
        """
        if self.member_axis == 1 and not self.shared_input:
            args, kwargs = _map_tensors(self._members_first, (args, kwargs))
        outputs = compute(*args, **kwargs)
        if self.member_axis == 1:
            outputs = _map_tensors(lambda x: ops.moveaxis(x, 0, 1), outputs)
        return outputs

    def _members_first(self, x):
        self._member_shape(tuple(x.shape))  # raises where axis 1 does not hold the members
        return ops.moveaxis(x, 1, 0)

    def map_members(self, *args, **kwargs):
        """Compute by calling the member once with each member's weights."""
        return map_members(self, args, kwargs, "unrolled" if self.must_unroll(*args, **kwargs) else "vectorized")

    def must_unroll(self, *args, training=None, **kwargs):
        """Whether the members are called side by side: the backends' maps do not draw random numbers, or only slowly."""
        return bool((training and self.draws()) or self.lowering == "unrolled")

    def call(self, *args, **kwargs):
        return self.run(self.map_members, *args, **kwargs)

    def compute_output_spec(self, *args, **kwargs):
        self._hidden.input_shape = self._member_shape(tuple(args[0].shape)) if args and is_tensor(args[0]) else None
        return tree.map_structure(self._stacked_spec, self._member_outputs(args, kwargs))

    def compute_output_shape(self, input_shape):
        return self._stacked_spec(
            keras.KerasTensor(self.template().compute_output_shape(self._member_shape(input_shape)))
        ).shape

    def compute_mask(self, inputs, previous_mask=None):
        overrides = type(self.template()).compute_mask is not keras.layers.Layer.compute_mask
        if self.member_axis == -1 or (previous_mask is None and not overrides):
            return None
        if not overrides:
            return _map_tensors(self._spread_mask, previous_mask) if self.shared_input else previous_mask
        inputs, previous_mask = _map_tensors(self._to_rows, (inputs, previous_mask))
        return _map_tensors(self._from_rows, self.template().compute_mask(inputs, previous_mask))

    def _spread_mask(self, mask):
        """(B, ...) -> (N, B, ...) or (B, N, ...)"""
        mask = self._hidden.stack(mask)
        return self._hidden.to_batch(mask) if self.member_axis == 1 else mask

    def _to_rows(self, x):
        """With a member axis: -> (N*B, ...)"""
        if self.shared_input:
            return x
        return self._hidden.fold(self._hidden.to_members(x) if self.member_axis == 1 else x)

    def _from_rows(self, x):
        if self.shared_input:
            return self._spread_mask(x)
        x = self._hidden.unfold(x)
        return self._hidden.to_batch(x) if self.member_axis == 1 else x

    def get_config(self):
        options = {name: getattr(self, name) for name in OPTIONS}
        return {**self.member_config(), "name": self.name, **options}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        options = {name: config.pop(name) for name in (*OPTIONS, "name") if name in config}
        return cls(member=cls.member_class.from_config(config), **options)

    def get_build_config(self):
        return build_plan(self.template()) if self.built else None

    def build_from_config(self, config):
        build_by_plan(self.template(), config)
        self.build()

    # ---- shapes ----

    def _member_outputs(self, args, kwargs):
        """What one member gives for these arguments, as KerasTensors."""
        args, kwargs = _map_tensors(self._member_spec, (args, kwargs))
        return self.template()(*args, **accepted(self.template(), kwargs))

    def _member_spec(self, x):
        return keras.KerasTensor(self._member_shape(tuple(x.shape)), keras.backend.standardize_dtype(x.dtype))

    def _member_shape(self, shape):
        """The shape of one member's part of a tensor."""
        if self.shared_input:
            return shape
        if self.member_axis == -1:
            return (*shape[:-1], shape[-1] // self.num_members)
        if len(shape) <= self.member_axis or shape[self.member_axis] != self.num_members:
            raise ValueError(
                f"Axis {self.member_axis} of an input must hold the {self.num_members} members, unless "
                f"shared_input=True. Received: shape {shape} (layer '{self.name}')."
            )
        return shape[: self.member_axis] + shape[self.member_axis + 1 :]

    def _stacked_spec(self, x):
        shape = tuple(x.shape)
        if self.member_axis == -1:
            return keras.KerasTensor((*shape[:-1], shape[-1] * self.num_members), x.dtype)
        return keras.KerasTensor((*shape[: self.member_axis], self.num_members, *shape[self.member_axis :]), x.dtype)


def _config(layer):
    """A layer's config, and what Keras leaves out of it; empty for a class that has none, which only `MapMembers` holds."""
    try:
        config = unshared(layer.get_config())
    except NotImplementedError:
        return {}
    return config if layer.autocast or is_custom(layer) else {**config, "autocast": False}


def _map_tensors(fn, structure):
    return tree.map_structure(lambda x: fn(x) if is_tensor(x) else x, structure)


def _names(variables, member):
    """Names of a member's variables, no two alike: of variables with one name Keras on torch clears one gradient only.

    Where two have one name, those of the sublayers that they are in come before it, `query_kernel`, or a number after it.
    """
    plain = [v.name for v in variables]
    full = [v.path.removeprefix(f"{member.path}/").replace("/", "_") for v in variables]
    names = [path if plain.count(name) > 1 else name for name, path in zip(plain, full)]
    return [f"{name}__{names[:i].count(name)}" if name in names[:i] else name for i, name in enumerate(names)]


def _is_trainable(weight, member):
    """Whether a weight trains when its layer does; a frozen layer's kernel is still a trainable weight of a frozen layer."""
    if member.trainable:
        return weight.trainable
    member.trainable = True
    trainable, member.trainable = weight.trainable, False
    return trainable


def _joined_signature(member_class):
    """The member's signature with the options of a MultiLayer, for `help` and editors."""
    own = [p for p in inspect.signature(MultiLayer.__init__).parameters.values() if p.name in OPTIONS]
    theirs = list(inspect.signature(member_class).parameters.values())
    keyword_only = [p.replace(kind=p.KEYWORD_ONLY) for p in own]
    positional = [p for p in theirs if p.kind is not p.VAR_KEYWORD]
    return inspect.Signature(positional + keyword_only + [p for p in theirs if p.kind is p.VAR_KEYWORD])
