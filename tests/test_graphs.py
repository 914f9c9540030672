"""Graphs of every shape against the loop over members: values in several batches, save and load, unpack."""

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k
from keras import ops, tree

import keras_multiweight as kmw
from keras_multiweight.copies import matching_weights

ROWS, BATCH_SIZE = 7, 3
GRAPHS = {}


def graph(build):
    GRAPHS[build.__name__] = build
    return build


def tower(name=None):
    """A small model with convolutions, which pack in another layout than what is around them."""
    x = keras.Input((6, 6, 2))
    y = k.BatchNormalization()(k.Conv2D(3, 3, activation="relu")(x))
    return keras.Model(x, [k.GlobalAveragePooling2D()(y), y], name=name)


@graph
def models_in_models_in_models():
    """Three levels, of which the middle one is called twice and the inner one three times."""
    x = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), k.Dense(4, activation="tanh")])
    a = keras.Input((4,))
    middle = keras.Model(a, inner(k.Dense(4)(inner(a))) + a)
    b = keras.Input((4,))
    outer = keras.Model(b, [middle(b), middle(b * 2.0)])
    p, q = outer(x)
    return keras.Model(x, [inner(p), q])


@graph
def one_layer_in_a_model_and_around_it():
    x, dense = keras.Input((4,)), k.Dense(4, activation="relu")
    inner = keras.Sequential([keras.Input((4,)), dense, k.Dense(4)])
    return keras.Model(x, dense(inner(dense(x))))


@graph
def a_model_called_on_different_inputs():
    a, b = keras.Input((6, 6, 2)), keras.Input((6, 6, 2))
    shared = tower()
    (p, _), (q, y) = shared(a), shared(ops.flip(b, axis=1))
    return keras.Model([a, b], [ops.sum(ops.square(p - q), axis=-1, keepdims=True), y])


@graph
def tied_embeddings():
    """One table, at the way in and at the way out, also inside of a nested model."""
    ids, table = keras.Input((5,), dtype="int32"), k.ReversibleEmbedding(11, 4)
    hidden = keras.Input((None, 4))
    head = keras.Model(hidden, table(k.LayerNormalization()(hidden), reverse=True))
    return keras.Model(ids, head(k.GRU(4, return_sequences=True)(table(ids))))


@graph
def skip_connections_across_models():
    x = keras.Input((8, 8, 2))
    encoder = keras.Model(x, [k.Conv2D(3, 3, padding="same")(x), k.MaxPooling2D()(k.Conv2D(3, 3, padding="same")(x))])
    a, b = keras.Input((8, 8, 3)), keras.Input((4, 4, 3))
    decoder = keras.Model([a, b], k.Concatenate()([a, k.UpSampling2D()(b)]))
    inputs = keras.Input((8, 8, 2))
    return keras.Model(inputs, k.Conv2D(1, 1)(decoder(encoder(inputs))) + inputs[..., :1])


@graph
def structures_in_structures():
    inputs = {
        "image": keras.Input((6, 6, 2), name="image"),
        "more": [keras.Input((3,), name="p"), keras.Input((2,), name="q")],
    }
    features, y = tower()(inputs["image"])
    x = k.Concatenate()([features, *inputs["more"]])
    return keras.Model(inputs, {"deep": {"z": k.Dense(2)(x), "a": [y, x]}, "first": k.Dense(1)(inputs["more"][0])})


@graph
def a_nested_model_of_dicts():
    inner = {"b": keras.Input((3,), name="b"), "a": keras.Input((2,), name="a")}
    nested = keras.Model(inner, {"sum": k.Dense(2)(inner["b"]) + inner["a"], "b": k.Dense(1)(inner["b"])})
    x, y = keras.Input((3,)), keras.Input((2,))
    out = nested({"a": k.Dense(2)(y), "b": x})
    return keras.Model([x, y], [out["b"], nested({"b": x, "a": out["sum"]})["sum"]])


@graph
def a_nested_list_model_called_with_a_dict():
    p, q = keras.Input((3,), name="p"), keras.Input((3,), name="q")
    nested = keras.Model([q, p], k.Dense(2)(q) - p[:, :2])
    x, y = keras.Input((3,)), keras.Input((3,))
    return keras.Model([x, y], nested({"p": x, "q": k.Dense(3)(y)}))


@graph
def a_sequential_of_models():
    return keras.Sequential(
        [keras.Input((4,)), keras.Sequential([k.Dense(3), k.BatchNormalization()]), keras.Sequential([k.Dense(2)])]
    )


@graph
def a_sequential_built_by_calling():
    model = keras.Sequential([k.Dense(5, activation="relu"), keras.Sequential([k.Dense(4), k.ReLU()]), k.Dense(2)])
    model(np.zeros((2, 4), "float32"))
    return model


@graph
def preprocessing_inside():
    image, number = keras.Input((10, 10, 3)), keras.Input((2,))
    x = k.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 4.0, 9.0])(k.CenterCrop(6, 6)(k.Rescaling(1 / 255.0)(image)))
    bins = k.CategoryEncoding(4, output_mode="multi_hot")(k.Discretization([-1.0, 0.0, 1.0])(number))
    x = k.Concatenate()([k.Flatten()(k.Conv2D(2, 3)(x)), k.Dense(3)(bins)])
    return keras.Model([image, number], k.Dense(2)(x))


@graph
def raw_operations_at_the_end():
    x = keras.Input((6, 4))
    y = k.Dense(4)(x)
    top, index = ops.top_k(y, 2)
    rolled = ops.roll(y, 1, axis=-1)  # along the wrong axis in TensorFlow's map
    return keras.Model(
        x, [ops.argmax(y, axis=-1), top, index, ops.logsumexp(y, axis=(1, 2)), ops.split(y, 2, axis=1)[1], rolled]
    )


@graph
def an_input_that_is_an_output():
    a, b = keras.Input((3,)), keras.Input((2,))
    return keras.Model([a, b], [a, k.Dense(2)(a), b])


@graph
def a_frozen_base_called_without_training():
    base = tower()
    base.trainable = False
    x = keras.Input((6, 6, 2))
    features, y = base(x, training=False)
    return keras.Model(x, [k.Dense(2)(k.Dropout(0.5)(features)), y])


@graph
def masks_into_a_nested_model():
    ids = keras.Input((5,), dtype="int32")
    x = keras.Input((None, 4))
    encoder = keras.Model(x, k.GRU(3, return_sequences=True)(k.Dropout(0.1)(x)))
    y = encoder(k.Embedding(5, 4, mask_zero=True)(ids))
    return keras.Model(ids, [k.LSTM(2)(y), k.GlobalAveragePooling1D()(y)])


@graph
def an_explicit_mask_into_a_nested_model():
    x, keep = keras.Input((5, 4)), keras.Input((5,), dtype="bool")
    inner = keras.Input((5, 4))
    encoder = keras.Model(inner, k.GRU(3)(inner))
    return keras.Model([x, keep], [encoder(k.Dense(4)(x), mask=keep), encoder(x)])


def inputs_of(model):
    rng = np.random.default_rng(0)
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input

    def one(x):
        shape = (ROWS, *x.shape[1:])
        if x.dtype == "bool":
            return rng.random(shape) < 0.6
        if "int" in x.dtype:
            return rng.integers(0, 5, shape).astype(x.dtype)
        return rng.normal(size=shape).astype("float32")

    return tree.map_structure(one, structure)


@pytest.fixture(scope="module", params=GRAPHS)
def packed(request):
    keras.utils.clear_session()
    models = oracle.members(GRAPHS[request.param])
    return models, kmw.pack(models), inputs_of(models[0])


def assert_predicts(multi, models, x):
    predicted = multi.predict(x, batch_size=BATCH_SIZE)
    tree.assert_same_structure(predicted, models[0].predict(x, verbose=0))
    expected = oracle.stacked_predictions(oracle.each_in(models[0], models), x, BATCH_SIZE)
    for received, wanted in zip(tree.flatten(predicted), expected, strict=True):
        oracle.assert_close(received, wanted)


def test_predictions_equal_each_members_own(packed):
    models, multi, x = packed
    assert_predicts(multi, models, x)


def test_nested_models_are_packed_inside(packed):
    _, multi, _ = packed
    assert not [row for row in multi.plan() if row["class"] in ("Functional", "Sequential")]


def test_members_come_out_bit_equal(packed):
    models, multi, x = packed
    for model, member in zip(models, kmw.unpack(multi), strict=True):
        for before, after in zip(matching_weights(model, member), member.weights, strict=True):
            np.testing.assert_array_equal(before.numpy(), after.numpy())
    expected, received = (tree.flatten(m.predict(x, verbose=0)) for m in (models[-1], member))
    for wanted, got in zip(expected, received, strict=True):
        oracle.assert_close(got, wanted)


def test_a_saved_pack_predicts_the_same_bits(packed, tmp_path):
    _, multi, x = packed
    oracle.assert_saves_the_same(multi, x, tmp_path)


@keras.saving.register_keras_serializable("tests")
class AddIfGiven(k.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = k.Dense(2)

    def call(self, x, y=None):
        return self.dense(x) if y is None else self.dense(x + y)


@pytest.mark.filterwarnings("ignore:.*has no rule of its own")
def test_an_optional_input_may_be_left_out(tmp_path):
    def build():
        x, y = keras.Input((3,), name="x"), keras.Input((3,), name="y", optional=True)
        return keras.Model({"x": x, "y": y}, AddIfGiven()(k.Dense(3)(x), y))

    models = oracle.members(build)
    kmw.pack(models).save(tmp_path / "packed.keras")
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(ROWS, 3)).astype("float32") for name in "xy"}
    for multi in (kmw.pack(models), keras.models.load_model(tmp_path / "packed.keras")):
        for inputs in (x, {**x, "y": None}):
            expected = np.stack([ops.convert_to_numpy(model(inputs)) for model in models], axis=1)
            oracle.assert_close(ops.convert_to_numpy(multi(inputs)), expected)
            oracle.assert_close(multi.predict(inputs), expected)


def test_a_nested_model_that_always_trains_does_so_packed():
    """`training=True`, as for dropout at prediction, reaches the layers of a nested model."""

    def build():
        x, inner = keras.Input((200,)), keras.Sequential([keras.Input((200,)), k.Dropout(0.5)])
        return keras.Model(x, inner(x, training=True))

    multi, x = kmw.pack([build(), build()], verify=False), np.ones((2, 200), "float32")
    out = ops.convert_to_numpy(multi(x))
    assert ((out == 0) | (out == 2)).all()
    assert not np.array_equal(out[:, 0], out[:, 1])
    np.testing.assert_array_equal(ops.convert_to_numpy(multi(x, training=False)), np.ones((2, 2, 200)))
