"""SparseLinear and MultiSparseLinear: linear layers that hold only the connections that exist. N members, B rows."""

import keras
import numpy as np
from keras import ops

from keras_multiweight.layers.activations import activate
from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.dense import add_aligned
from keras_multiweight.layers.plumbing import PACKAGE

# From this share of existing connections on, a matmul with zeros in between beats gathering. On 2 CPU cores, forward
# and backward, 8 members of 256x256 at 10%: 4 ms against 35 (JAX), 5 against 169 (torch); 4 members of 1024x1024 at
# 0.1%: 35 against 1.7 (JAX), 32 against 9 (torch).
DENSE_SHARE = 0.02


@keras.saving.register_keras_serializable(PACKAGE)
class SparseLinear(keras.layers.Layer):
    """A linear layer with a weight for each connection that exists, and for no other.

    Args:
        units: int, the number of outputs. Read from a mask; with `connectivity=None` the number of features.
        activation: Activation function, or its name.
        use_bias: bool. One bias an output.
        connectivity: Which inputs reach which outputs. `None`: output i sees input i alone. Otherwise a boolean mask
            `(in, units)`, or integer pairs (input, output) `(nnz, 2)`. Pairs are what is kept: `kernel[k]` is the
            weight of pair k, and the pairs of a mask are `np.argwhere(mask)`.
        kernel_initializer: Initialiser of the kernel. Glorot, He and their kind take the mean number of connections of
            an output as fan in, and of an input as fan out: a diagonal has fans of 1, blocks have the fans of a `Dense`
            of their size, and a full mask those of `Dense`. Others are called on the shape `(nnz,)`.
        bias_initializer: As for `keras.layers.Dense`.
        kernel_regularizer, bias_regularizer, activity_regularizer, kernel_constraint, bias_constraint: As for
            `keras.layers.Dense`, on a kernel of shape `(nnz,)`.

    Input shape:
        `(B, ..., in)`.

    Output shape:
        `(B, ..., units)`.

    Example:

    ```python
    layer = SparseLinear(units=2, connectivity=[(0, 0), (1, 0), (2, 1)])
    layer(np.ones((32, 3), "float32")).shape  # (32, 2), from 3 weights and 2 biases
    ```
    """

    def __init__(
        self,
        units=None,
        activation=None,
        use_bias=True,
        connectivity=None,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        **kwargs,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.connectivity, self.units = as_pairs(connectivity, units)
        self._mask_rows = _mask_rows(connectivity)
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.supports_masking = True

    def build(self, input_shape):
        features = input_shape[-1]
        self._check_features(features)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: features})
        self.wiring = Wiring(_diagonal_or(self.connectivity, features)[None], features, self.units or features)
        self._add("kernel", (self.wiring.pairs.shape[1],), self._draw_kernel)
        if self.use_bias:
            self._add("bias", (self.wiring.units,), self.bias_initializer)

    def _add(self, name, shape, initializer):
        regularizer, constraint = getattr(self, f"{name}_regularizer"), getattr(self, f"{name}_constraint")
        weight = self.add_weight(
            name=name, shape=shape, initializer=initializer, regularizer=regularizer, constraint=constraint
        )
        setattr(self, name, weight)

    def _draw_kernel(self, shape, dtype=None):
        values = self.kernel_initializer(shape, dtype=dtype)
        if not isinstance(self.kernel_initializer, keras.initializers.VarianceScaling):
            return values
        (nnz,) = shape  # both fans, to Keras
        fan_in, fan_out = nnz / self.wiring.units, nnz / self.wiring.features
        fan = {"fan_in": fan_in, "fan_out": fan_out}.get(self.kernel_initializer.mode, (fan_in + fan_out) / 2)
        return values * (nnz / max(1.0, fan)) ** 0.5

    def _check_features(self, features):
        received = f"Received: inputs of {features} features (layer '{self.name}')"
        if self.connectivity is None and self.units not in (None, features):
            raise ValueError(
                f"Without connectivity each feature has one output, so units must be None or {features}. "
                f"{received} and units={self.units}. Give connectivity, or leave units out."
            )
        if self._mask_rows not in (None, features):
            raise ValueError(f"A mask must have a row for each feature. {received} and a mask of {self._mask_rows} rows.")
        _check_inputs(self.connectivity, features, self.name)

    def call(self, inputs):
        x = self.wiring(ops.expand_dims(inputs, 0), ops.expand_dims(self.kernel, 0))
        x = ops.squeeze(x, 0)
        x = ops.add(x, self.bias) if self.use_bias else x
        return x if self.activation is None else self.activation(x)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units or input_shape[-1])

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        config = {
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "connectivity": None if self.connectivity is None else self.connectivity.tolist(),
            "activity_regularizer": serialize(self.activity_regularizer),
        }
        for weight in ("kernel", "bias"):
            for kind in ("initializer", "regularizer", "constraint"):
                config[f"{weight}_{kind}"] = serialize(getattr(self, f"{weight}_{kind}"))
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(PACKAGE)
class MultiSparseLinear(MultiLayer):
    """N sparse linear layers as one: each holds only the connections that exist.

    Args:
        units, activation, use_bias, kernel_initializer, ...: As for `SparseLinear`.
        connectivity: As for `SparseLinear`, the same for all members; or a list of N masks or N pair arrays, one a
            member, with equally many connections; or an array of these, `(N, in, units)` or `(N, nnz, 2)`.
        num_members: int, N.
        member_axis: 1 (default) for `(B, N, ..., in)`, 0 for `(N, B, ..., in)`.
        shared_input: bool. All members read the same `(B, ..., in)`.

    Input shape:
        `(B, N, ..., in)`, or `(B, ..., in)` with `shared_input=True`.

    Output shape:
        `(B, N, ..., units)`.

    Example:

    ```python
    layer = kmw.MultiSparseLinear(num_members=2, shared_input=True)  # a weight and a bias a feature
    layer(np.array([[3.0, 7.0], [9.0, 4.0]])).shape  # (2, 2, 2), from 4 weights and 4 biases
    ```
    """

    member_class = SparseLinear

    def __init__(
        self, units=None, activation=None, use_bias=True, connectivity=None, *args, member=None, num_members, **kwargs
    ):
        own = None
        if _is_one_each(connectivity):
            own, units = _one_pairs_each(connectivity, units or getattr(member, "units", None), num_members)
            connectivity = connectivity[0]
        super().__init__(units, activation, use_bias, connectivity, *args, member=member, num_members=num_members, **kwargs)
        if own is not None:
            self.connectivity = own  # (N, nnz, 2)

    def build(self, input_shape=None, values=None):
        super().build(input_shape, values)
        features = self.template().wiring.features
        _check_inputs(self.connectivity, features, self.name)
        pairs = _diagonal_or(self.connectivity, features)
        self.wiring = Wiring(pairs.reshape((-1, *pairs.shape[-2:])), features, self.template().wiring.units)

    def call(self, inputs):
        return self.run(self._compute, inputs)

    def _compute(self, x):
        x = ops.expand_dims(x, 0) if self.shared_input else x
        x = self.wiring(x, ops.cast(self.kernel, self.compute_dtype))  # (N, B, ..., units)
        if self.use_bias:
            x = add_aligned(x, ops.cast(self.bias, self.compute_dtype))
        return activate(self.activation, x)

    @classmethod
    def from_member_layers(cls, layers, **options):
        """As `MultiLayer.from_member_layers`, and the members' connectivities may differ, if equally many."""
        layers = list(layers)
        if not _differ_in_connectivity(layers):
            return super().from_member_layers(layers, **options)
        own = [layer.connectivity for layer in layers]
        _check_equally_many(own)
        alike = [_rewired(layer, own[0]) for layer in layers]  # lets the base compare all that must not differ
        return super().from_member_layers(alike, connectivity=own, **options)

    def member_layer(self, i):
        layer = super().member_layer(i)
        return layer if not _is_one_each(self.connectivity) else _rewired(layer, self.connectivity[i])

    def get_config(self):
        config = super().get_config()
        return {**config, "connectivity": None if self.connectivity is None else self.connectivity.tolist()}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class Wiring:
    """Which inputs reach which outputs, and how to compute with that.

    Args:
        pairs: int array `(1, nnz, 2)` of (input, output) for all members, or `(N, nnz, 2)` for each its own.
        features, units: How many inputs and outputs.
    """

    def __init__(self, pairs, features, units):
        self.pairs = pairs[:1] if (pairs == pairs[:1]).all() else pairs
        self.features = features
        self.units = units
        self.lowering = self._choose()

    def __call__(self, x, kernel):
        """`(N or 1, B, ..., in)` and kernel `(N, nnz)` to `(N, B, ..., units)`."""
        lead = ops.shape(x)[1:-1]
        x = ops.reshape(x, (x.shape[0], -1, self.features))
        x = getattr(self, f"_{self.lowering}")(x, kernel)  # (N, rows, units)
        return ops.reshape(x, (kernel.shape[0], *lead, self.units))

    def _choose(self):
        size, nnz = self.features * self.units, self.pairs.shape[1]
        if self._find_blocks(size // nnz):
            return "diagonal" if self.blocks == self.features == self.units else "block_diagonal"
        if nnz < DENSE_SHARE * size:
            return "gathered"
        self.positions = np.full((len(self.pairs), size), nnz, "int32")  # of weights in the kernel; nnz: none
        flat = self.pairs[..., 0] * self.units + self.pairs[..., 1]
        np.put_along_axis(self.positions, flat, np.arange(nnz, dtype="int32")[None], axis=1)
        return "dense"

    def _find_blocks(self, blocks):
        """Whether the connections are `blocks` equal blocks along the diagonal, in whatever order they were given."""
        if len(self.pairs) > 1 or self.features % blocks or self.units % blocks:
            return False
        inputs, outputs = self.pairs[0].T
        self.order = np.lexsort((outputs, inputs)).astype("int32")
        self.blocks, high, wide = blocks, self.features // blocks, self.units // blocks
        rows = np.repeat(np.arange(self.features), wide)
        columns = rows // high * wide + np.tile(np.arange(wide), self.features)
        return np.array_equal(self.pairs[0][self.order], np.stack([rows, columns], 1))

    def _sorted(self, kernel):
        return kernel if (self.order[1:] > self.order[:-1]).all() else ops.take(kernel, self.order, axis=1)

    def _diagonal(self, x, kernel):
        return x * ops.expand_dims(self._sorted(kernel), 1)

    def _block_diagonal(self, x, kernel):
        high, wide = self.features // self.blocks, self.units // self.blocks
        kernel = ops.reshape(self._sorted(kernel), (-1, self.blocks, high, wide))
        x = ops.reshape(x, (x.shape[0], -1, self.blocks, high))
        x = ops.matmul(ops.swapaxes(x, 1, 2), kernel)  # (N, blocks, rows, wide)
        return ops.reshape(ops.swapaxes(x, 1, 2), (kernel.shape[0], -1, self.units))

    def _dense(self, x, kernel):
        num_members = kernel.shape[0]
        kernel = ops.pad(kernel, ((0, 0), (0, 1)))
        if len(self.positions) == 1:
            kernel = ops.take(kernel, self.positions[0], axis=1)
        else:
            kernel = ops.take_along_axis(kernel, self.positions, axis=1)
        return ops.matmul(x, ops.reshape(kernel, (num_members, self.features, self.units)))

    def _gathered(self, x, kernel):
        """All members' features are rows of one table, and all members' outputs are segments of one sum."""
        num_members = kernel.shape[0]
        members = np.arange(num_members)[:, None]
        sources = self.pairs[..., 0] + (members * self.features if x.shape[0] > 1 else 0 * members)
        targets = self.pairs[..., 1] + members * self.units
        x = ops.reshape(ops.swapaxes(x, 1, 2), (x.shape[0] * self.features, -1))
        x = ops.take(x, sources.ravel().astype("int32"), axis=0) * ops.reshape(kernel, (-1, 1))  # (N*nnz, rows)
        targets = ops.convert_to_tensor(targets.ravel(), "int32")
        x = ops.segment_sum(x, targets, num_segments=num_members * self.units)
        return ops.swapaxes(ops.reshape(x, (num_members, self.units, -1)), 1, 2)


def as_pairs(connectivity, units):
    """A mask or pairs as an int array `(nnz, 2)`, and the number of units; `None` stays."""
    if connectivity is None:
        return None, units
    array = np.asarray(connectivity)
    if array.dtype == bool and array.ndim == 2:
        if units not in (None, array.shape[1]):
            raise ValueError(
                f"A mask must have a column for each unit. Received: units={units} and a mask of shape {array.shape}."
            )
        array, units = np.argwhere(array), array.shape[1]
    _check_pairs(array, units)
    return array.astype("int64"), units


def _check_pairs(pairs, units):
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise ValueError(
            "connectivity must be None, a boolean mask (in, units) or integer pairs (nnz, 2) of (input, output). "
            f"Received: shape {pairs.shape}, dtype {pairs.dtype}."
        )
    if not len(pairs):
        raise ValueError("connectivity must have at least one connection. Received: none.")
    if units is None:
        raise ValueError("With pairs as connectivity units must be given. Received: units=None.")
    outside = pairs[(pairs < 0).any(1) | (pairs[:, 1] >= units)]
    if len(outside):
        raise ValueError(
            f"Inputs in connectivity must be at least 0, outputs from 0 to units - 1 = {units - 1}. Received: pair "
            f"{tuple(outside[0].tolist())}."
        )
    values, counts = np.unique(pairs, axis=0, return_counts=True)
    if counts.max() > 1:
        pair = tuple(values[counts.argmax()].tolist())
        raise ValueError(f"A connection must be there once. Received: pair {pair} {counts.max()} times.")


def _check_inputs(pairs, features, name):
    if pairs is not None and pairs[..., 0].max() >= features:
        raise ValueError(
            "The inputs in connectivity must be below the number of features. "
            f"Received: input {pairs[..., 0].max()}, and inputs of {features} features (layer '{name}')."
        )


def _mask_rows(connectivity):
    array = None if connectivity is None else np.asarray(connectivity)
    return array.shape[0] if array is not None and array.dtype == bool else None


def _diagonal_or(pairs, features):
    return np.stack([np.arange(features)] * 2, axis=1) if pairs is None else pairs


def _is_one_each(connectivity):
    return connectivity is not None and len(connectivity) > 0 and np.ndim(connectivity[0]) == 2


def _one_pairs_each(connectivity, units, num_members):
    """Each member's connectivity as one array `(N, nnz, 2)`, and the number of units."""
    if len(connectivity) != num_members:
        raise ValueError(
            f"A list of connectivities must have one for each of the {num_members} members. Received: {len(connectivity)}."
        )
    if len({_mask_rows(c) for c in connectivity}) > 1:
        raise ValueError(
            "The masks of the members must have equal shapes, and come without pairs among them. Received: shapes "
            f"{[np.shape(c) for c in connectivity]}."
        )
    own = []
    for each in connectivity:
        pairs, units = as_pairs(each, units)
        own.append(pairs)
    _check_equally_many(own)
    return np.stack(own), units


def _check_equally_many(own):
    counts = [len(pairs) for pairs in own]
    i = next((i for i, count in enumerate(counts) if count != counts[0]), None)
    if i is not None:
        raise ValueError(
            f"The members must have equally many connections. Received: {counts[0]} in member 0 and {counts[i]} in "
            f"member {i}. Add connections to the members with fewer, with weights of 0."
        )


def _differ_in_connectivity(layers):
    """Whether all are sparse layers with connections of their own; other differences are for the base to tell."""
    own = [getattr(layer, "connectivity", None) for layer in layers]
    return all(pairs is not None for pairs in own) and any(not np.array_equal(pairs, own[0]) for pairs in own[1:])


def _rewired(layer, connectivity):
    """A copy of a layer, weights and all, between other places."""
    copy = SparseLinear.from_config({**layer.get_config(), "connectivity": connectivity.tolist()})
    if layer.built:
        copy.build_from_config(layer.get_build_config())
        copy.set_weights(layer.get_weights())
    return copy
