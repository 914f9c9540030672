"""Groups of units found from the graph: permuting all of them leaves the function of a model as it was."""

import warnings

import keras
import numpy as np
import pytest
from cases import CASES
from keras import layers as k
from keras import ops

from keras_multiweight import merging
from keras_multiweight.merging import PermutationSpec
from keras_multiweight.packing.verify import random_inputs, run_in_batches


def with_free_outputs(model):
    """The model with a dense layer behind each output, so that the outputs are units that may move."""
    functional = keras.Model(model.inputs, model.outputs) if isinstance(model, keras.Sequential) else model
    given = keras.tree.flatten(run_in_batches(model, random_inputs(model, 8)))
    pairs = zip(functional.outputs, given, strict=True)  # what Keras says that a shape is, and what it is
    outputs = [y for y, x in pairs if len(y.shape) > 1 and y.shape[-1] == x.shape[-1]]
    return keras.Model(functional.inputs, [k.Dense(3)(y) for y in outputs] or functional.outputs)


def quiet_spec(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PermutationSpec.from_model(model)


# the layers of these stand below, alone; here they come in many forms
SLOW = {"bidirectional", "lstm", "gru", "rnn_of_cells", "rnn_states", "masked_text", "mask_as_an_input", "conv_lstm_1d"}
SLOW |= {"conv_lstm_3d", "policy_float64", "policy_mixed_bfloat16", "policies_that_meet"}


@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.slow) if x in SLOW else x for x in CASES])
def test_every_group_permutes_without_a_change_of_the_function(name):
    model = with_free_outputs(CASES[name]())
    before = model.get_weights()
    spec = quiet_spec(model)
    assert not spec.groups or spec.validate() <= (1e-5 if "float16" not in name else 2e-2)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


def spec_of(*layers, shape, dtype="float32"):
    """The spec of layers one after another, and a dense layer behind them."""
    return PermutationSpec.from_model(keras.Sequential([keras.Input(shape, dtype=dtype), *layers, k.Dense(2)]))


def groups_of(spec):
    """The sizes of the groups, and those of what they lie within."""
    return [(group.size, group.parent and group.parent.size) for group in spec.groups.values()]


@pytest.mark.parametrize(
    "layers, shape, expected",
    [
        ([k.Dense(6), k.Dense(4)], (5,), [(6, None), (4, None)]),
        ([k.Conv2D(4, 2), k.Flatten(), k.Dense(5)], (4, 4, 1), [(4, None), (5, None)]),
        ([k.LSTM(4)], (5, 3), [(4, None)]),
        ([k.GRU(4), k.LayerNormalization()], (5, 3), [(4, None)]),
        ([k.Bidirectional(k.LSTM(4))], (5, 3), [(4, None), (4, None)]),
        ([k.Conv2D(4, 2), k.DepthwiseConv2D(2, depth_multiplier=3)], (4, 4, 1), [(4, None), (3, 4)]),
        ([k.Conv2D(6, 2), k.Conv2D(9, 2, groups=3)], (5, 5, 1), [(3, None), (2, 3), (3, 3)]),
        ([k.Dense(12), k.GroupNormalization(3)], (5,), [(3, None), (4, 3)]),
        ([k.Dense(12), k.Reshape((3, 4)), k.Dense(5), k.Flatten()], (5,), [(3, None), (4, None), (5, None)]),
        ([k.Conv1D(4, 2), k.Permute((2, 1)), k.Flatten()], (5, 3), [(4, None)]),
    ],
)
def test_units_lie_exactly(layers, shape, expected):
    model = keras.Sequential([keras.Input(shape), *(type(x).from_config(x.get_config()) for x in layers), k.Dense(2)])
    spec = PermutationSpec.from_model(model)
    assert groups_of(spec) == expected
    assert spec.validate() <= 1e-5


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_channels_of_convolutional_lstms_permute_wherever_they_are(data_format):
    if data_format == "channels_first" and keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow has no convolution with channels first on CPU")
    options = {"data_format": data_format, "return_sequences": True}
    x = inputs = keras.Input((3, 4, 5, 6))
    for filters in (2, 3):
        x = k.ConvLSTM2D(filters, 2, padding="same", **options)(x)
    x = x if data_format == "channels_last" else k.Permute((1, 3, 4, 2))(x)
    spec = PermutationSpec.from_model(keras.Model(inputs, k.Dense(2)(x)))
    assert groups_of(spec) == [(2, None), (3, None)]
    assert spec.validate() <= 1e-5


def test_states_of_one_layer_begin_another_of_the_same_units():
    inputs = keras.Input((5, 3))
    y, h, c = k.LSTM(4, return_sequences=True, return_state=True)(inputs)
    spec = PermutationSpec.from_model(keras.Model(inputs, k.Dense(2)(k.LSTM(4)(y, initial_state=[h, c]))))
    assert groups_of(spec) == [(4, None)]
    assert spec.validate() <= 1e-5


def test_custom_activation_of_a_recurrent_layer_is_held_fast():
    with pytest.warns(UserWarning, match="has the activation 'reversed_units'"):
        spec = spec_of(k.LSTM(4, activation=reversed_units), shape=(5, 3))
    assert not spec.groups


def reversed_units(x):
    return ops.flip(x, axis=-1)


def test_heads_permute_and_channels_within_each_head():
    inputs = keras.Input((5, 6))
    x = k.Dense(8)(inputs)
    x = k.Add()([x, k.MultiHeadAttention(2, 4)(x, x)])
    spec = PermutationSpec.from_model(keras.Model(inputs, k.Dense(2)(x)))
    assert groups_of(spec) == [(8, None), (2, None), (4, 2), (4, 2)]
    assert spec.validate() <= 1e-5


def test_embeddings_and_layers_that_are_used_twice_are_one_group():
    inputs, dense = keras.Input((5,), dtype="int32"), k.Dense(8, activation="relu")
    x = k.LayerNormalization()(k.Embedding(7, 8)(inputs))
    spec = PermutationSpec.from_model(keras.Model(inputs, k.Dense(2)(dense(dense(x)))))
    assert groups_of(spec) == [(8, None)]  # what goes in must be in the places of what comes out
    assert spec.validate() <= 1e-5


def test_residual_stream_is_one_group():
    inputs = keras.Input((5,))
    x = k.Dense(8)(inputs)
    for _ in range(3):
        x = k.Add()([x, k.Dense(8)(k.Dense(16, activation="relu")(k.LayerNormalization()(x)))])
    spec = PermutationSpec.from_model(keras.Model(inputs, k.Dense(2)(x)))
    assert groups_of(spec) == [(8, None), (16, None), (16, None), (16, None)]


def test_sum_of_a_concatenation_and_one_layer_splits_its_units():
    inputs = keras.Input((5,))
    joined = k.Concatenate()([k.Dense(3)(inputs), k.Dense(5)(inputs)])
    other = k.Concatenate()([k.Dense(6)(inputs), k.Dense(2)(inputs)])
    x = k.Add()([joined, other, k.Dense(8)(inputs)])
    spec = PermutationSpec.from_model(keras.Model(inputs, k.Dense(2)(x)))
    assert sorted(groups_of(spec)) == [(2, None), (3, None), (3, None)]
    assert spec.validate() <= 1e-5


def test_flattened_concatenation_keeps_its_parts_apart():
    inputs = keras.Input((5, 5, 1))
    x = k.Concatenate()([k.Conv2D(3, 2)(inputs), k.Conv2D(4, 2)(inputs)])
    spec = PermutationSpec.from_model(keras.Model(inputs, k.Dense(2)(k.Flatten()(x))))
    assert groups_of(spec) == [(3, None), (4, None)]
    assert spec.validate() <= 1e-5


def test_what_meets_an_input_or_an_output_is_held_fast():
    inputs = keras.Input((5,))
    spec = PermutationSpec.from_model(keras.Model(inputs, k.Dense(4)(k.Add()([inputs, k.Dense(5)(inputs)]))))
    assert not spec.groups and not spec.frozen


class Halves(k.Layer):
    """Swaps the halves of the channels: units must stay where they are."""

    def call(self, x):
        a, b = ops.split(x, 2, axis=-1)
        return ops.concatenate([b, a], axis=-1) * ops.arange(1.0, x.shape[-1] + 1.0)


def test_unknown_layer_is_held_fast_with_one_warning_that_names_it():
    with pytest.warns(UserWarning, match="'odd' .Halves. has no permutation rule") as caught:
        spec = spec_of(k.Dense(6), Halves(name="odd"), k.Dense(7), k.Dense(6), Halves(name="even"), shape=(5,))
    assert len(caught) == 1 and "'even'" in str(caught[0].message)
    assert groups_of(spec) == [(7, None)] and list(spec.frozen) == ["odd", "even"]
    assert spec.validate() <= 1e-5


class Factor(k.Layer):
    """One factor for each channel."""

    def build(self, shape):
        self.factor = self.add_weight(shape=shape[-1:], initializer="uniform")

    def call(self, x):
        return x * self.factor


class WrongFactor(Factor):
    pass


class Forgotten(Factor):
    pass


@merging.register_permutation_rule(Factor)
def factor_rule(trace, layer, x):
    trace.weight(layer.factor, [x.axes[-1]])
    return x


@merging.register_permutation_rule(WrongFactor)
def wrong_rule(trace, layer, x):
    trace.weight(layer.factor, [trace.units(x.shape[-1])])
    return x


merging.register_permutation_rule(Forgotten, lambda trace, layer, x: x)


def test_custom_layer_permutes_by_its_rule():
    spec = spec_of(k.Dense(6), Factor(), shape=(5,))
    assert groups_of(spec) == [(6, None)] and not spec.frozen
    assert spec.validate() <= 1e-5


def test_wrong_rule_is_found_by_validate():
    with pytest.raises(ValueError, match="A rule of register_permutation_rule is wrong"):
        spec_of(k.Dense(6), WrongFactor(), shape=(5,)).validate()


def test_rule_that_forgets_a_weight_holds_its_layer_fast():
    with pytest.warns(UserWarning, match="does not place: .*/forgotten/"):
        spec = spec_of(k.Dense(6), Forgotten(name="forgotten"), shape=(5,))
    assert not spec.groups


def test_second_rule_of_a_class_is_refused():
    with pytest.raises(ValueError, match=r"one permutation rule\. Received: a second .* for Factor.*replace=True"):
        merging.register_permutation_rule(Factor, wrong_rule)
    assert merging.register_permutation_rule(Factor, factor_rule, replace=True) is factor_rule
    with pytest.raises(
        ValueError, match=r"register_permutation_rule takes a layer class and a function.*Received: 'Factor'"
    ):
        merging.register_permutation_rule("Factor", factor_rule)


def test_subclassed_model_is_refused():
    class Own(keras.Model):
        pass

    with pytest.raises(ValueError, match=r"takes a built Functional or Sequential model\. Received: Own"):
        PermutationSpec.from_model(Own())


def test_spec_prints_its_groups_and_what_is_held_fast():
    model = keras.Sequential([keras.Input((5,)), k.Dense(6, name="hidden"), k.Dense(4, name="next"), Halves(name="odd")])
    text = str(quiet_spec(model))
    assert "hidden/units: 6 units, in hidden/kernel, hidden/bias, next/kernel" in text
    assert "held fast: 'odd' (Halves) has no permutation rule" in text


def test_permutations_are_undone_by_their_inverses():
    model = CASES["transformer_block"]()
    spec, weights = PermutationSpec.from_model(model), model.get_weights()
    moved = spec.permute(weights, p := spec.random(seed=1))
    assert not all(np.array_equal(a, b) for a, b in zip(moved, weights))
    flat = {name: np.argsort(q) for name, q in p.items() if q.ndim == 1}
    heads = next(name for name in spec.groups if name.endswith("heads"))
    nested = {name: np.argsort(q, axis=-1)[flat[heads]] for name, q in p.items() if q.ndim == 2}
    back = spec.permute(moved, {**flat, **nested})
    assert all(np.array_equal(a, b) for a, b in zip(back, weights))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, options",
    [("MobileNetV2", {"alpha": 0.35}), ("MobileNetV3Small", {}), ("ResNet50V2", {}), ("DenseNet121", {})]
    + [("EfficientNetB0", {}), ("NASNetMobile", {})],
)
def test_published_architectures_permute_without_a_change_of_the_function(name, options):
    if name == "NASNetMobile" and keras.backend.backend() == "torch":
        pytest.skip("Keras has no NASNetMobile on torch")
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(32, 32, 3), classes=10, classifier_activation=None, **options)
    spec = PermutationSpec.from_model(model)
    assert not spec.frozen and len(spec.groups) >= 25
    assert spec.validate() <= 1e-5
