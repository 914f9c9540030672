"""Subclassed models and custom layers, against the loop over members."""

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k
from keras import ops

import keras_multiweight as kmw

ROWS, BATCH_SIZE = 7, 3
pytestmark = pytest.mark.filterwarnings("ignore:.*has no rule of its own")
KEPT = []


@keras.saving.register_keras_serializable("tests")
class TransformerBlock(k.Layer):
    """Without a `build`: the layers within are built when they are first called."""

    def __init__(self, dim, heads=2, **kwargs):
        super().__init__(**kwargs)
        self.dim, self.heads = dim, heads
        self.attention = k.MultiHeadAttention(heads, dim)
        self.hidden = keras.Sequential([k.Dense(2 * dim, activation="relu"), k.Dense(dim)])
        self.norms = [k.LayerNormalization(), k.LayerNormalization()]

    def call(self, x, context=None):
        x = self.norms[0](x + self.attention(x, x if context is None else context))
        return self.norms[1](x + self.hidden(x))

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "heads": self.heads}


@keras.saving.register_keras_serializable("tests")
class ScaledDense(k.Layer):
    """With a weight of its own, and a layer that its `build` makes and leaves unbuilt."""

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(input_shape[-1],), initializer="normal")
        self.dense = k.Dense(3)

    def call(self, x):
        return self.dense(x * self.scale), ops.mean(x, axis=-1)


@keras.saving.register_keras_serializable("tests")
class Perceptron(keras.Model):
    """A whole model of two tensors in a dict, with two answers."""

    def __init__(self, units=5, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden, self.norm, self.drop = k.Dense(units), k.BatchNormalization(), k.Dropout(0.5)
        self.out = k.Dense(2)

    def call(self, inputs, training=None):
        x = ops.concatenate([inputs["left"], inputs["right"]], axis=-1)
        x = self.drop(ops.relu(self.norm(self.hidden(x), training=training)), training=training)
        return {"value": self.out(x), "features": x}

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class Doubled(keras.Model):
    """A Functional model with its own call."""

    def call(self, *args, **kwargs):
        return super().call(*args, **kwargs) * 2


@keras.saving.register_keras_serializable("tests")
class Tagger(keras.Model):
    """Takes ints."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # Keras numbers by `id` what Bidirectional serialises while a model loads: one that dies leaves its id to the next
        KEPT.append(k.LSTM(3, return_sequences=True))
        self.embed, self.lstm = k.Embedding(11, 4, mask_zero=True), k.Bidirectional(KEPT[-1])
        self.out = k.Dense(2)

    def call(self, ids):
        return self.out(self.lstm(self.embed(ids))) + ops.cast(ops.one_hot(ids, 11), "float32")[..., :2]


class Plain(keras.Model):
    """As in a tutorial: its `__init__` takes nothing, and it has no config of its own."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = k.Dense(4, activation="relu"), k.Dense(2)

    def call(self, x):
        return self.out(self.hidden(x))


class Closed(keras.Model):
    """Cannot be made again: nobody knows what function it was given."""

    def __init__(self, function):
        super().__init__()
        self.function, self.out = function, k.Dense(2)

    def call(self, x):
        return self.function(self.out(x))


def built(model, **shapes):
    x = data(shapes)
    model(x if len(x) > 1 else x["x"])
    return model


def data(shapes, rows=2):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(rows, *shape)).astype("float32") for name, shape in shapes.items()}


def block():
    x, context = keras.Input((6, 4)), keras.Input((5, 4))
    return keras.Model([x, context], TransformerBlock(4)(TransformerBlock(4)(x), context=context))


def lazy():
    x = keras.Input((4,))
    return keras.Model(x, ScaledDense()(x))


def nested():
    """A subclassed model among layers, called twice."""
    left, right = keras.Input((3,)), keras.Input((3,))
    inner = Perceptron(4)
    first = inner({"left": left, "right": right})
    second = inner({"left": first["value"][:, :1] + right, "right": k.Dense(3)(left)})
    return keras.Model([left, right], [first["value"], k.Dense(2)(second["features"])])


def doubled():
    x = keras.Input((4,))
    return Doubled(x, k.Dense(2)(k.Dense(3)(x)))


def whole():
    return built(Perceptron(), left=(3,), right=(2,))


def tagger():
    model = Tagger()
    model(np.array([[1, 2, 0]]))
    return model


MODELS = {
    block: [(6, 4), (5, 4)],
    lazy: (4,),
    nested: [(3,), (3,)],
    doubled: (4,),
    whole: {"left": (3,), "right": (2,)},
}


@pytest.fixture(
    scope="module", params=[*MODELS, pytest.param(tagger, marks=pytest.mark.slow)], ids=lambda build: build.__name__
)
def packed(request):
    keras.utils.clear_session()
    models = oracle.members(request.param)
    rng = np.random.default_rng(1)
    shapes = MODELS.get(request.param, (3,))
    x = keras.tree.map_shape_structure(lambda s: rng.normal(size=(ROWS, *s)).astype("float32"), shapes)
    x = rng.integers(0, 11, x.shape) if request.param is tagger else x
    return models, kmw.pack(models, verify=False), x


def assert_predicts(multi, models, x):
    predicted = multi.predict(x, batch_size=BATCH_SIZE)
    keras.tree.assert_same_structure(predicted, models[0].predict(x, verbose=0))
    expected = oracle.stacked_predictions(oracle.each_in(models[0], models), x, BATCH_SIZE)
    for received, wanted in zip(keras.tree.flatten(predicted), expected, strict=True):
        oracle.assert_close(received, wanted)


def test_predictions_equal_each_members_own(packed):
    models, multi, x = packed
    assert_predicts(multi, models, x)


def test_members_come_out_as_the_users_class(packed):
    models, multi, x = packed
    out = kmw.unpack(multi)
    for model, member in zip(models, out, strict=True):
        assert type(member) is type(model)
        for before, after in zip(model.get_weights(), member.get_weights(), strict=True):
            np.testing.assert_array_equal(before, after)
    received, expected = (keras.tree.flatten(m.predict(x, verbose=0))[0] for m in (out[1], models[1]))
    oracle.assert_close(received, expected)


def test_a_saved_pack_predicts_the_same_bits(packed, tmp_path):
    models, multi, x = packed
    loaded = oracle.assert_saves_the_same(multi, x, tmp_path)
    assert [type(m) for m in loaded.unpack()] == [type(m) for m in models]


def test_a_class_as_in_a_tutorial_packs_and_unpacks(tmp_path):
    models = oracle.members(lambda: built(Plain(), x=(3,)))
    multi, x = kmw.pack(models), data({"x": (3,)}, rows=ROWS)["x"]
    assert_predicts(multi, models, x)
    oracle.assert_close(multi.member(2).predict(x, verbose=0), models[2].predict(x, verbose=0))
    with pytest.raises(ValueError, match=r"(?s)let `__init__` take `\*\*kwargs`.*custom classes Plain"):
        multi.save(tmp_path / "packed.keras")
    assert not list(tmp_path.iterdir())


def test_a_class_that_cannot_be_made_again_still_predicts(tmp_path):
    def sine(x):
        return ops.sin(x)

    models = oracle.members(lambda: built(Closed(lambda x: sine(x)), x=(3,)))
    before, x = [model.get_weights() for model in models], data({"x": (3,)}, rows=ROWS)["x"]
    with pytest.warns(UserWarning, match=r"(?s)is not saved or unpacked.*custom classes Closed"):
        multi = kmw.pack(models)
    assert_predicts(multi, models, x)
    for model, weights in zip(models, before):
        for old, new in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
    with pytest.raises(ValueError, match=r"(?s)let `get_config` return the arguments.*custom classes Closed"):
        multi.unpack()
    with pytest.raises(ValueError, match=r"custom classes Closed"):
        multi.save(tmp_path / "packed.keras")


def test_a_class_without_a_config_is_compared_by_its_layers():
    class Chosen(Closed):
        def __init__(self, function, activation):
            super().__init__(function)
            self.out.activation = keras.activations.get(activation)

    models = [built(Chosen(lambda x: x, name), x=(3,)) for name in ("relu", "tanh")]
    with pytest.raises(kmw.IncompatibleModelsError, match=r"activation='relu' in member 0 and activation='tanh'"):
        kmw.pack(models)


def test_an_unregistered_class_is_named_when_its_file_is_loaded(tmp_path):
    class Forgotten(Perceptron):
        pass

    kmw.pack([built(Forgotten(), left=(3,), right=(2,))]).save(tmp_path / "packed.keras")
    with pytest.raises(TypeError, match=r"(?s)Could not locate class 'Forgotten'.*register_keras_serializable"):
        keras.models.load_model(tmp_path / "packed.keras")
    loaded = keras.models.load_model(tmp_path / "packed.keras", custom_objects={"Forgotten": Forgotten})
    assert type(loaded.member(0)) is Forgotten


def test_inputs_may_be_said(tmp_path):
    """Data or `keras.Input`: shapes that the models were not built with, in the structure that `predict` takes."""
    models = oracle.members(lambda: built(Plain(), x=(6, 3)))
    x = data({"x": (4, 3)}, rows=ROWS)["x"]
    for inputs in (x, keras.Input((None, 3)), x.astype("float64")):
        assert_predicts(kmw.pack(models, inputs=inputs), models, x)
    with pytest.raises(ValueError, match=r"must have shape \(None, 6, 3\)"):
        kmw.pack(models).predict(x)


def test_inputs_that_are_not_known_must_be_said():
    class Pair(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = k.Dense(2)

        def call(self, a, b):
            return self.dense(a + b)

    model, x = Pair(), np.ones((2, 3), "float32")
    model(x, b=x)
    with pytest.raises(ValueError, match=r"(?s)must say what it takes in one argument.*Pair.*inputs="):
        kmw.pack([model])


def test_replicas_of_a_subclassed_model_differ():
    multi = kmw.replicate(whole(), 3, seed=0)
    kernels = [multi.member_weights(i)[0] for i in range(3)]
    assert len({kernel.tobytes() for kernel in kernels}) == 3


def test_a_custom_layer_takes_a_rule_of_the_user():
    """Two numbers for each member, and a computation that knows of the member axis."""

    class Affine(k.Layer):
        def build(self, input_shape):
            self.scale, self.shift = self.add_weight((), "normal", name="scale"), self.add_weight((2,), name="shift")

        def call(self, x):
            return x * self.scale + self.shift

    class MultiAffine(kmw.layers.MultiLayer):
        member_class = Affine

        def call(self, inputs):
            return self.run(self._compute, inputs)

        def _compute(self, x):
            return x * self.scale[:, None, None] + self.shift[:, None]

    from keras_multiweight.packing import kinds

    kmw.register_rule(Affine, kinds.weighted(MultiAffine))
    models = oracle.members(lambda: keras.Sequential([keras.Input((3,)), k.Dense(2), Affine()]))
    multi, x = kmw.pack(models), data({"x": (3,)}, rows=ROWS)["x"]
    assert [row["packed"] for row in multi.plan()] == ["MultiDense", "MultiAffine"]
    assert_predicts(multi, models, x)
    oracle.assert_close(multi.member(1).predict(x, verbose=0), models[1].predict(x, verbose=0))
