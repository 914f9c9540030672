"""The layers with a member axis, used by hand, against a loop over the Keras layers that they stand for."""

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k
from keras import ops

import keras_multiweight as kmw
from keras_multiweight import layers as multi

ROWS, MEMBERS = 4, 3

# the layer, how one member is made, and one member's input
LAYERS = {
    "dense": (multi.MultiDense, lambda: k.Dense(5, activation="softmax"), (6, 4)),
    "dense_one_unit": (multi.MultiDense, lambda: k.Dense(1), (4,)),
    "einsum_dense": (multi.MultiEinsumDense, lambda: k.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d"), (6, 4)),
    "sparse_linear": (multi.MultiSparseLinear, lambda: multi.SparseLinear(), (4,)),
    "embedding": (multi.MultiEmbedding, lambda: k.Embedding(11, 3), (6,)),
    "conv1d": (multi.MultiConv1D, lambda: k.Conv1D(4, 3, padding="causal"), (6, 3)),
    "conv2d": (multi.MultiConv2D, lambda: k.Conv2D(4, 3, strides=2, activation="relu"), (6, 7, 3)),
    "conv3d": (multi.MultiConv3D, lambda: k.Conv3D(2, 2), (4, 3, 4, 2)),
    "depthwise_conv1d": (multi.MultiDepthwiseConv1D, lambda: k.DepthwiseConv1D(3), (6, 2)),
    "depthwise_conv2d": (multi.MultiDepthwiseConv2D, lambda: k.DepthwiseConv2D(3, depth_multiplier=2), (6, 7, 2)),
    "separable_conv1d": (multi.MultiSeparableConv1D, lambda: k.SeparableConv1D(4, 3, padding="same"), (6, 2)),
    "separable_conv2d": (multi.MultiSeparableConv2D, lambda: k.SeparableConv2D(4, 3), (6, 7, 2)),
    "batch_normalization": (multi.MultiBatchNormalization, lambda: k.BatchNormalization(), (6, 4)),
    "layer_normalization": (multi.MultiLayerNormalization, lambda: k.LayerNormalization(), (6, 4)),
    "lstm": (multi.MultiLSTM, lambda: k.LSTM(4, return_sequences=True), (6, 3)),
    "gru": (multi.MultiGRU, lambda: k.GRU(4, activation="softmax"), (6, 3)),
    "simple_rnn": (multi.MultiSimpleRNN, lambda: k.SimpleRNN(4), (6, 3)),
    "any_layer": (multi.MapMembers, lambda: k.Bidirectional(k.GRU(3)), (6, 3)),
}


def trained(name):
    """N built members with random weights, and an input for each."""
    _, make, shape = LAYERS[name]
    rng = np.random.default_rng(0)
    x = rng.integers(0, 11, (MEMBERS, ROWS, *shape)) if name == "embedding" else rng.normal(size=(MEMBERS, ROWS, *shape))
    x = x.astype("int32" if name == "embedding" else "float32")
    members = []
    for i in range(MEMBERS):
        layer = make()
        layer(x[i])
        members.append(oracle.randomized(layer, i))
    return LAYERS[name][0], members, x


def numpy(x):
    return ops.convert_to_numpy(x)


@pytest.fixture(scope="module", params=LAYERS)
def case(request):
    return trained(request.param)


def test_batch_first_inputs_go_to_their_members(case):
    cls, members, x = case
    expected = np.stack([numpy(layer(x[i])) for i, layer in enumerate(members)], axis=1)
    oracle.assert_close(numpy(cls.from_member_layers(members)(np.swapaxes(x, 0, 1))), expected)


def test_members_first_inputs_go_to_their_members(case):
    cls, members, x = case
    expected = np.stack([numpy(layer(x[i])) for i, layer in enumerate(members)])
    oracle.assert_close(numpy(cls.from_member_layers(members, member_axis=0)(x)), expected)


def test_a_shared_input_goes_to_all(case):
    cls, members, x = case
    expected = np.stack([numpy(layer(x[0])) for layer in members], axis=1)
    oracle.assert_close(numpy(cls.from_member_layers(members, shared_input=True)(x[0])), expected)


def test_a_member_comes_out_as_it_went_in(case):
    cls, members, x = case
    layer = cls.from_member_layers(members)
    for i, member in enumerate(members):
        out = layer.member_layer(i)
        assert type(out) is type(member)
        for before, after in zip(member.get_weights(), out.get_weights(), strict=True):
            np.testing.assert_array_equal(before, after)
        oracle.assert_close(numpy(out(x[i])), numpy(member(x[i])))


def test_a_saved_model_of_layers_gives_the_same_bits(case, tmp_path):
    cls, members, x = case
    inputs = keras.Input(x.shape[2:], dtype=x.dtype.name)
    model = keras.Model(inputs, cls.from_member_layers(members, shared_input=True)(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(x[0])), numpy(model(x[0])))


def test_fresh_members_are_drawn_on_their_own_shapes():
    layer = kmw.MultiDense(200, num_members=4, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
    layer.build((None, 4, 100))
    kernel = numpy(layer.kernel)
    alone = k.Dense(200, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
    alone.build((None, 100))
    np.testing.assert_array_equal(kernel[0], numpy(alone.kernel))  # the first has the seed itself
    assert np.abs(kernel.max(axis=(1, 2)) / np.sqrt(6 / 300) - 1).max() < 0.01  # Glorot's bound for (100, 200)
    assert len({k_.tobytes() for k_ in kernel}) == 4


def test_weights_that_all_members_have_alike_lie_member_after_member():
    """Whoever computes with them reads along a row, not across the members."""
    packed = kmw.pack([keras.Sequential([keras.Input((4,)), k.Dense(5)]) for _ in range(3)])
    for weight in packed.weights:
        assert keras.ops.convert_to_numpy(weight).flags.c_contiguous, weight.path


def test_arguments_are_attributes():
    layer = multi.MultiConv2D(7, 3, strides=2, num_members=2, padding="same", activation="relu")
    assert (layer.filters, layer.strides, layer.padding) == (7, (2, 2), "same")
    assert layer.activation is keras.activations.relu
    with pytest.raises(AttributeError, match="no attribute 'units'"):
        layer.units  # noqa: B018


def test_a_training_step_is_each_members_own():
    """Regularisers, constraints and activity regularisers act on each member alone."""
    options = {
        "kernel_regularizer": keras.regularizers.OrthogonalRegularizer(0.1),
        "kernel_constraint": keras.constraints.MaxNorm(0.5),
        "bias_regularizer": "l2",
        "activity_regularizer": keras.regularizers.L2(0.01),
    }
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(ROWS, 5)).astype("float32"), rng.normal(size=(ROWS, 2)).astype("float32")
    members = []
    for i in range(MEMBERS):
        model = keras.Sequential([keras.Input((5,)), k.Dense(2, **options)])
        members.append(oracle.randomized(model, i))
    inputs = keras.Input((5,))
    packed = multi.MultiDense.from_member_layers([m.layers[0] for m in members], shared_input=True)
    together = keras.Model(inputs, packed(inputs))
    together.compile(keras.optimizers.SGD(0.1), "mse", loss_weights=[MEMBERS])
    before = [model.get_weights() for model in members]
    loss = 0.0
    for model in members:
        model.compile(keras.optimizers.SGD(0.1), "mse")
        loss += model.train_on_batch(x, y)
    oracle.assert_close(together.train_on_batch(x, np.repeat(y[:, None], MEMBERS, 1)), loss)
    for i, model in enumerate(members):
        for after, now, start in zip(model.get_weights(), packed.member_layer(i).get_weights(), before[i]):
            oracle.assert_close(now, after, scale=np.abs(after - start).max(), tolerance=1e-4)


def test_batch_statistics_are_each_members_own():
    rng = np.random.default_rng(0)
    members, x = [], rng.normal(size=(MEMBERS, ROWS, 5)).astype("float32")
    for i in range(MEMBERS):
        layer = k.BatchNormalization(momentum=0.7)
        layer.build((None, 5))
        members.append(oracle.randomized(layer, i))
    for axis, inputs in ((0, x), (1, np.swapaxes(x, 0, 1)), (-1, np.moveaxis(x, 0, 1).reshape(ROWS, -1))):
        layer = multi.MultiBatchNormalization.from_member_layers(members, member_axis=axis)
        copies = [layer.member_layer(i) for i in range(MEMBERS)]
        received = numpy(layer(inputs, training=True))
        expected = np.stack([numpy(copies[i](x[i], training=True)) for i in range(MEMBERS)])
        received = received.reshape(ROWS, MEMBERS, 5).swapaxes(0, 1) if axis == -1 else np.moveaxis(received, axis, 0)
        oracle.assert_close(received, expected)
        for i, copy in enumerate(copies):
            oracle.assert_close(layer.member_layer(i).get_weights()[2], copy.get_weights()[2])
            oracle.assert_close(layer.member_layer(i).get_weights()[3], copy.get_weights()[3])


def test_members_draw_their_own_dropout():
    models = oracle.members(lambda: keras.Sequential([keras.Input((200,)), k.Dropout(0.5)]))
    out = numpy(kmw.pack(models)(np.ones((2, 200), "float32"), training=True))
    assert ((out == 0) | (out == 2)).all()
    assert not np.array_equal(out[:, 0], out[:, 1])
    assert not np.array_equal(out[:, 1], out[:, 2])


def test_recurrent_dropout_trains():
    inputs = keras.Input((5, 3))
    y = multi.MultiGRU(4, num_members=2, shared_input=True, dropout=0.3, recurrent_dropout=0.3)(inputs)
    model = keras.Model(inputs, y)
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(8, 5, 3)).astype("float32")
    history = model.fit(x, np.zeros((8, 2, 4)), epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    outputs = numpy(model(x, training=True))
    assert not np.array_equal(outputs, numpy(model(x, training=True)))


def test_embedding_ids_outside_the_table_do_not_reach_the_next_member():
    layer = multi.MultiEmbedding(4, 2, num_members=2, shared_input=True)
    layer.build((None, 1))
    layer.embeddings.assign(np.arange(16.0).reshape(8, 2))
    try:
        out = numpy(layer(np.array([[4]])))
    except Exception:  # some backends refuse the id, as they do for one table
        return
    assert not np.array_equal(out[0, 0, 0], [8.0, 9.0])


@pytest.mark.parametrize("cls", [k.Embedding, k.ReversibleEmbedding])
def test_negative_ids_count_from_the_end_of_a_members_own_table(cls):
    inputs = keras.Input((3,), dtype="int32")
    models = oracle.members(lambda: keras.Model(inputs, cls(5, 2)(inputs)))
    x = np.array([[-1, 0, 4], [-5, 1, -2]], "int32")
    multi = kmw.pack(models, verify=False)
    for ask in (multi.predict, multi.predictor()):
        np.testing.assert_array_equal(ask(x), oracle.stacked_predictions(models, x, 2)[0])


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match=r"at least 1. Received: num_members=0"):
        kmw.MultiDense(3, num_members=0)
    with pytest.raises(ValueError, match=r"member_axis of MultiDense must be in \(0, 1\). Received: -1"):
        kmw.MultiDense(3, num_members=2, member_axis=-1)
    with pytest.raises(ValueError, match=r"Axis 1 .* must hold the 3 members, unless shared_input=True"):
        kmw.MultiDense(3, num_members=3)(np.ones((2, 4, 5), "float32"))
    with pytest.raises(ValueError, match=r"stateful recurrent layer cannot hold members"):
        multi.MultiLSTM(3, num_members=2, stateful=True)
    layer = k.Dense(3, dtype="float32")
    layer.build((None, 4))
    layer.enable_lora(2)
    with pytest.raises(ValueError, match=r"quantized or LoRA"):
        multi.MultiDense(member=layer, num_members=2)


def test_layers_of_another_class_are_not_joined():
    layer = k.Dense(3)
    layer.build((None, 4))
    with pytest.raises(ValueError, match=r"MultiConv2D must be layers of class Conv2D. Received: a Dense"):
        multi.MultiConv2D.from_member_layers([layer])


def test_layers_that_differ_are_not_joined():
    built = [k.Dense(3), k.Dense(3, activation="relu"), k.Dense(3)]
    for layer, size in zip(built, (4, 4, 5)):
        layer.build((None, size))
    with pytest.raises(
        ValueError, match=r"equal configs. Received: .*activation='linear' in member 0 and .*'relu' in member 1"
    ):
        multi.MultiDense.from_member_layers(built[:2])
    with pytest.raises(ValueError, match=r"equal weight shapes. Received: \[\(4, 3\), \(3,\)\] in member 0"):
        multi.MultiDense.from_member_layers([built[0], built[2]])
    with pytest.raises(ValueError, match=r"built Keras layers. Received: .* as member 0"):
        multi.MultiDense.from_member_layers([k.Dense(3)])
    with pytest.raises(ValueError, match=r"at least one layer"):
        multi.MultiDense.from_member_layers([])
