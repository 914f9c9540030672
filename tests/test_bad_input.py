"""What must not be packed, and what the errors say."""

import zipfile

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k

import keras_multiweight as kmw


def mlp(units=4, activation="relu", inputs=3, epsilon=1e-3, name="second"):
    x = keras.Input((inputs,))
    y = k.Dense(units, activation=activation)(x)
    y = k.BatchNormalization(epsilon=epsilon)(y)
    return keras.Model(x, k.Dense(2, name=name)(y))


def saved(model, path):
    model.save(path)
    return str(path)


def test_no_models_are_refused():
    with pytest.raises(ValueError, match=r"at least one model. Received: an empty list"):
        kmw.pack([])


def test_one_model_packs():
    model = mlp()
    x = np.ones((5, 3), "float32")
    answers = kmw.pack([model]).predict(x)
    assert answers.shape == (5, 1, 2)
    oracle.assert_close(answers[:, 0], model.predict(x, verbose=0))
    assert kmw.pack(model).num_members == 1


@pytest.mark.parametrize(
    ("other", "key", "expected", "received"),
    [
        ({"activation": "tanh"}, "activation", "relu", "tanh"),
        ({"epsilon": 1e-5}, "epsilon", 1e-3, 1e-5),
        ({"units": 5}, "units", 4, 5),
    ],
)
def test_a_different_member_is_refused_by_name(other, key, expected, received):
    with pytest.raises(kmw.IncompatibleModelsError, match="equal configs") as caught:
        kmw.pack([mlp(), mlp(), mlp(**other)])
    found = [d for d in caught.value.differences if d.key == key]
    assert [(d.member, d.expected, d.received) for d in found] == [(2, expected, received)]
    assert found[0].layer
    assert f"{key}={received!r} in member 2" in str(caught.value)
    assert found[0].layer in str(caught.value)


def test_different_strides_are_refused():
    def build(strides):
        return keras.Sequential([keras.Input((8, 8, 1)), k.Conv2D(2, 3, strides=strides, padding="same", name="c")])

    with pytest.raises(kmw.IncompatibleModelsError) as caught:
        kmw.pack([build(1), build(2)])
    assert {d.key.split("[")[0] for d in caught.value.differences} >= {"strides"}


def test_different_graphs_are_refused():
    def build(join):
        x = keras.Input((3,))
        y = k.Dense(3)(x)
        return keras.Model(x, join(y, k.ReLU()(y)))

    with pytest.raises(kmw.IncompatibleModelsError):
        kmw.pack([build(lambda y, z: y - z), build(lambda y, z: z - y)])


def test_different_input_sizes_are_refused():
    with pytest.raises(kmw.IncompatibleModelsError):
        kmw.pack([mlp(inputs=3), mlp(inputs=4)])


def test_different_dtypes_are_refused():
    half = keras.Sequential([keras.Input((3,)), k.Dense(2, dtype="mixed_bfloat16")])
    full = keras.Sequential([keras.Input((3,)), k.Dense(2)])
    with pytest.raises(kmw.IncompatibleModelsError, match="dtype"):
        kmw.pack([full, half])


def test_names_seeds_and_initializers_may_differ():
    x = keras.Input((3,))
    other = keras.Model(x, k.Dense(2, kernel_initializer="ones")(k.BatchNormalization()(k.Dense(4, "relu", name="z")(x))))
    assert kmw.pack([mlp(name="first"), other]).num_members == 2


def test_an_unbuilt_model_is_refused():
    with pytest.raises(ValueError, match=r"an unbuilt Sequential .* as member 1"):
        kmw.pack([mlp(), keras.Sequential([k.Dense(2)])])


def test_an_output_without_a_batch_axis_is_refused():
    x = keras.Input((3,))
    model = keras.Model(x, keras.ops.sum(k.Dense(2)(x)))
    with pytest.raises(ValueError, match=r"must have a batch axis"):
        kmw.pack([model])


def test_something_that_is_no_model_is_refused():
    with pytest.raises(ValueError, match="a int as member 1"):
        kmw.pack([mlp(), 3])
    with pytest.raises(ValueError, match=r"a NoneType as member 0"):
        kmw.pack([None])
    with pytest.raises(ValueError, match=r"the path 'a.keras' as member 1"):
        kmw.pack([mlp(), "a.keras"])
    with pytest.raises(ValueError, match=r"unpack takes a MultiModel"):
        kmw.unpack(mlp())
    with pytest.raises(FileNotFoundError, match=r"nowhere\.keras"):
        kmw.unpack("nowhere.keras")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.keras"):
        kmw.pack([saved(mlp(), tmp_path / "a.keras"), tmp_path / "nowhere.keras"])
    with pytest.raises(FileNotFoundError, match="matches none"):
        kmw.pack(str(tmp_path / "*.h5"))


def test_a_truncated_file_is_named(tmp_path):
    paths = [saved(mlp(), tmp_path / f"{i}.keras") for i in range(2)]
    data = (tmp_path / "1.keras").read_bytes()
    (tmp_path / "1.keras").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"1\.keras', which cannot be read"):
        kmw.pack(paths)


def test_a_foreign_file_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "b.keras", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(ValueError, match=r"b\.keras', which cannot be read"):
        kmw.pack([saved(mlp(), tmp_path / "a.keras"), tmp_path / "b.keras"])
    (tmp_path / "c.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"ends in \.keras, .* Received: '.*c\.txt'"):
        kmw.pack([tmp_path / "c.txt"])


def test_a_different_file_is_named(tmp_path):
    paths = [saved(mlp(), tmp_path / "a.keras"), saved(mlp(units=5), tmp_path / "b.keras")]
    with pytest.raises(kmw.IncompatibleModelsError, match=r"b\.keras"):
        kmw.pack(paths)


def test_wrong_inputs_are_refused():
    multi = kmw.pack([mlp(), mlp()])
    with pytest.raises(ValueError, match=r"must have shape \(None, 3\). Received: shape \(4, 7\)"):
        multi.predict(np.ones((4, 7), "float32"))
    with pytest.raises(ValueError, match=r"takes 1 inputs, .* Received: 2"):
        multi.predict([np.ones((4, 3), "float32")] * 2)


def test_nan_weights_are_packed_and_the_member_is_named():
    models = [mlp(), mlp(), mlp()]
    kernel = models[1].layers[1].kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.warns(UserWarning, match=r"Member 1, .* NaN"):
        multi = kmw.pack(models)
    answers = multi.predict(np.ones((4, 3), "float32"))
    assert np.isnan(answers[:, 1]).all()
    assert np.isfinite(answers[:, [0, 2]]).all()


def test_packing_leaves_the_models_as_they_were():
    models = [mlp(), mlp()]
    before = [model.get_weights() for model in models]
    configs = [model.to_json() for model in models]
    nodes = [[len(layer._inbound_nodes) for layer in model.layers] for model in models]
    multi = kmw.pack(models)
    multi.layers[1].kernel.assign(multi.layers[1].kernel * 0)
    for model, weights in zip(models, before):
        for old, new in zip(weights, model.get_weights()):
            np.testing.assert_array_equal(old, new)
    assert configs == [model.to_json() for model in models]
    assert nodes == [[len(layer._inbound_nodes) for layer in model.layers] for model in models]


def test_the_self_check_finds_a_wrong_rule():
    class Twice(k.Layer):
        def call(self, x):
            return x * 2

    kmw.register_rule(Twice, lambda trace, members, x: x)
    with pytest.raises(RuntimeError, match=r"a relative difference of .* for member 0"):
        kmw.pack([keras.Sequential([keras.Input((3,)), k.Dense(2), Twice()])])


def test_a_second_rule_for_a_class_is_refused():
    with pytest.raises(ValueError, match=r"one rule. Received: a second rule .* for Dense"):
        kmw.register_rule(k.Dense, lambda trace, members, x: x)


def test_a_layer_without_a_rule_is_named_in_a_warning_and_right():
    class Shift(k.Layer):
        def build(self, input_shape):
            self.shift = self.add_weight(shape=(input_shape[-1],), initializer="normal")

        def call(self, x):
            return x - self.shift

    models = oracle.members(lambda: keras.Sequential([keras.Input((3,)), k.Dense(2), Shift(name="own")]))
    with pytest.warns(UserWarning, match=r"'own' of class Shift has no rule of its own .* 'vectorized'"):
        multi = kmw.pack(models)
    assert ("own", "vectorized") in [(row["layer"], row["rule"]) for row in multi.plan()]
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    oracle.assert_close(multi.predict(x), oracle.stacked_predictions(models, x, 5)[0])


def test_a_layer_that_cannot_be_mapped_is_unrolled():
    class Eager(k.Layer):
        def build(self, input_shape):
            self.scale = self.add_weight(shape=(), initializer="normal")
            self.noise = k.GaussianNoise(0.1)

        def call(self, x):
            return self.noise(x * self.scale)

    models = oracle.members(lambda: keras.Sequential([keras.Input((3,)), Eager(name="own")]))
    with pytest.warns(UserWarning, match=r"'own' of class Eager .* 'unrolled'"):
        multi = kmw.pack(models)
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    oracle.assert_close(multi.predict(x), oracle.stacked_predictions(models, x, 5)[0])


def test_members_are_counted_from_both_ends():
    multi = kmw.pack([mlp(), mlp()])
    np.testing.assert_array_equal(multi.member(-1).get_weights()[0], multi.member(1).get_weights()[0])
    with pytest.raises(IndexError, match=r"from 0 to 1. Received: i=2"):
        multi.member(2)


class TakesTwo(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = k.Dense(2)

    def call(self, p, q):
        return self.dense(p + q)


def test_inputs_that_a_subclassed_model_does_not_take_are_refused():
    x, models = np.ones((2, 3), "float32"), [TakesTwo() for _ in range(2)]
    for model in models:
        model(x, x)
    with pytest.raises(ValueError, match=r"(?s)what the model's `predict` takes.*TakesTwo"):
        kmw.pack(models, inputs=[x, x])


class NeverCalled(keras.Model):
    """Keras marks a model without `build` as built whatever its layers are."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = k.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_a_model_whose_layers_are_unbuilt_is_refused():
    models = [NeverCalled() for _ in range(2)]
    for model in models:
        model.built = True
    with pytest.raises(ValueError, match="an unbuilt NeverCalled"):
        kmw.pack(models)
    assert not models[0].weights


def test_what_is_no_list_of_models_is_named():
    with pytest.raises(ValueError, match=r"Received: a dict of \['a'\]"):
        kmw.pack({"a": mlp()})
    with pytest.raises(ValueError, match="Received: a int as member 0"):
        kmw.pack([1, 2])
    with pytest.raises(ValueError, match="Received: a NoneType as member 0"):
        kmw.replicate(lambda: None, 2)


def test_an_uncompiled_model_is_not_trained():
    multi, x = kmw.pack([mlp(), mlp()]), np.ones((2, 3), "float32")
    for train in (multi.fit, multi.evaluate, multi.train_on_batch, multi.test_on_batch):
        with pytest.raises(ValueError, match="must be compiled"):
            train(x, x)


@pytest.mark.parametrize("target, rule", [("Dense", len), (k.Dense(1), len), (TakesTwo, "weighted")])
def test_what_is_no_rule_is_not_registered(target, rule):
    with pytest.raises(ValueError, match="takes a layer class and a function"):
        kmw.register_rule(target, rule)


@keras.saving.register_keras_serializable("tests")
class CountingCell(k.SimpleRNNCell):
    """Counts its steps in a weight."""

    def build(self, input_shape):
        super().build(input_shape)
        self.count = self.add_weight(shape=(), name="count", trainable=False, initializer="zeros")

    def call(self, inputs, states, training=False):
        self.count.assign_add(1.0)
        return super().call(inputs, states, training=training)


def test_a_cell_that_assigns_weights_within_a_step_is_refused():
    layer = kmw.layers.MultiRNN(CountingCell(3), num_members=2)
    with pytest.raises(NotImplementedError, match=r"neither assign weights nor add losses.*CountingCell"):
        layer(np.ones((4, 2, 5, 3), "float32"))
