"""Members that differ in the rates of their random layers, too, are one model, and each keeps its own."""

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k
from keras import ops

import keras_multiweight as kmw
from keras_multiweight.layers import random as multi_random
from keras_multiweight.prediction.chunks import Chunks

RATES = [0.0, 0.2, 0.6]
STEPS, CHANNELS = 4, 6
LAYERS = {
    "AlphaDropout": k.AlphaDropout,
    "AlphaDropout of steps": lambda rate: k.AlphaDropout(rate, noise_shape=(None, STEPS, 1)),
    "Dropout": k.Dropout,
    "Dropout of channels": lambda rate: k.Dropout(rate, noise_shape=(None, 1, CHANNELS)),
    "GaussianDropout": k.GaussianDropout,
    "GaussianNoise": k.GaussianNoise,
    "SpatialDropout1D": k.SpatialDropout1D,
    "SpatialDropout2D": lambda rate: k.SpatialDropout2D(rate, data_format="channels_first"),
    "SpatialDropout3D": k.SpatialDropout3D,
}
RANKS = {"SpatialDropout2D": (2,), "SpatialDropout3D": (2, 1)}  # more axes of the inputs


def network(rate=0.0, noise=0.0, units=5):
    x = keras.Input((3,))
    h = k.Dense(units, activation="tanh")(k.GaussianNoise(noise)(x))
    inner = keras.Sequential([keras.Input((units,)), k.Dropout(rate), k.Dense(4)])
    return keras.Model(x, k.Dense(2)(k.Dropout(rate)(inner(h))))


def rates(model):
    """The settings of a model, in order, however its layers are called."""
    return [value for _, value in kmw.settings.settings_of(keras.saving.serialize_keras_object(model))]


@pytest.fixture(scope="module")
def case():
    models = [oracle.randomized(network(rate, rate / 2), i) for i, rate in enumerate(RATES)]
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    return kmw.pack(models), models, x


def test_each_member_keeps_its_rates(case, tmp_path):
    multi, models, x = case
    assert sorted(multi.member_settings.values()) == [[0.0, 0.1, 0.3], RATES, RATES]
    multi.save(tmp_path / "packed.keras")
    loaded = keras.models.load_model(tmp_path / "packed.keras")
    for i, model in enumerate(models):
        model.save(tmp_path / f"{i}.keras")
    files = kmw.pack([tmp_path / f"{i}.keras" for i in range(3)])
    for some, numbers in [(multi, [0, 1, 2]), (loaded, [0, 1, 2]), (files, [0, 1, 2]), (multi.select([2, 2]), [2, 2])]:
        oracle.assert_close(some.predict(x), multi.predict(x)[:, numbers])
        assert [rates(model) for model in some.unpack()] == [rates(models[i]) for i in numbers]
    other = multi.select([1, 1], member_settings={path: [0.5, 0.25] for path in multi.member_settings})
    assert [rates(model) for model in other.unpack()] == [[0.5] * 3, [0.25] * 3]
    oracle.assert_close(other.predict(x), multi.predict(x)[:, [1, 1]])
    with pytest.raises(ValueError, match=r"lists of 1 values.*Received: 2 values for 'rate'"):
        multi.select([1], member_settings={"rate": [0.1, 0.2]})


def drawn(name, rate, build):
    """What a layer makes of ones in training, (rows, ...)."""
    x = np.ones((400, *RANKS.get(name, ()), STEPS, CHANNELS), "float32")
    return ops.convert_to_numpy(build(LAYERS[name](rate))(x, training=True))


@pytest.mark.parametrize("name", LAYERS)
def test_draws_are_those_of_keras(name):
    """The oracle is Keras's own layer: the same values, as often, and alike along the same axes."""

    def build(layer):
        cls = getattr(multi_random, f"Multi{type(layer).__name__}")
        settings = {cls.settings_names[0]: RATES}
        return cls(member=layer, num_members=3, member_settings=settings, shared_input=True)

    received = drawn(name, 0.5, build)
    np.testing.assert_array_equal(received[:, 0], 1.0)
    for i, rate in [(1, 0.2), (2, 0.6)]:
        expected = drawn(name, rate, lambda layer: layer)
        values, own = np.unique(expected), np.unique(received[:, i])
        if len(values) == 2:
            np.testing.assert_allclose(own, values, rtol=1e-5, atol=1e-6)
        draws = received[:, i].size / max(1, _alike(expected))
        error = 5 * expected.std() / np.sqrt(draws) + 1e-6
        assert abs(received[:, i].mean() - expected.mean()) < 2 * error
        assert received[:, i].std() == pytest.approx(expected.std(), rel=0.2)
        assert _alike(received[:, i]) == _alike(expected)
    assert not np.array_equal(received[:, 1] == received[:, 1].max(), received[:, 2] == received[:, 2].max())


def _alike(x):
    """How many numbers of a row have one draw, at least: the sizes of the axes along which all are equal."""
    return np.prod([size for axis, size in enumerate(x.shape) if axis and np.ptp(x, axis=axis).max() == 0] or [1])


def test_members_draw_with_one_generator_and_their_own_rate():
    layer = kmw.layers.MultiDropout(0.5, seed=7, num_members=3, member_settings={"rate": [0.0, 0.3, 1.0]})
    x = np.random.default_rng(0).normal(size=(50, 3, 8)).astype("float32")
    received = ops.convert_to_numpy(layer(x, training=True))
    uniform = keras.random.uniform((3, 50, 8), seed=keras.random.SeedGenerator(7))
    kept = np.moveaxis(ops.convert_to_numpy(uniform), 0, 1) >= np.array([0.0, 0.3, 1.0])[:, None]
    np.testing.assert_allclose(received, np.where(kept, x / np.array([1, 0.7, 1])[:, None], 0), rtol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), x)


def test_members_train_with_their_own_rates(case):
    """The member without draws ends where it ends alone; members that rest, and chunks of members, keep theirs."""
    multi, models, x = case
    y = np.random.default_rng(1).normal(size=(8, 2)).astype("float32")
    single = keras.models.clone_model(models[0])
    single.set_weights(models[0].get_weights())
    arguments = {"x": x, "y": y, "batch_size": 4, "epochs": 3, "shuffle": False, "verbose": 0}
    for model in (multi, single):
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(**arguments)
    for a, b in zip(multi.member_weights(0), single.get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-5)
    part = Chunks(multi, 2)
    weights = part.weights([ops.convert_to_numpy(v) for v in multi.variables], 1)
    found = [value for value in weights if value.shape == (2,) and value.dtype == np.float32]
    np.testing.assert_allclose(found, [[0.1, 0.3], [0.2, 0.6], [0.2, 0.6]])


def test_recurrent_layers_have_their_own_rates():
    def build(dropout, recurrent_dropout):
        x = keras.Input((4, 3))
        h = k.Bidirectional(k.LSTM(3, dropout=dropout, recurrent_dropout=recurrent_dropout, return_sequences=True))(x)
        return keras.Model(x, k.GRU(2, dropout=dropout)(h))

    models = [oracle.randomized(build(*pair), i) for i, pair in enumerate([(0.0, 0.0), (0.5, 0.0), (0.0, 0.4)])]
    multi = kmw.pack(models)
    assert [rates(model) for model in multi.unpack()] == [rates(model) for model in models]
    x = np.random.default_rng(0).normal(size=(5, 4, 3)).astype("float32")
    first, second = (ops.convert_to_numpy(multi(x, training=True)) for _ in range(2))
    oracle.assert_close(first[:, 0], models[0].predict(x, verbose=0))
    assert (np.abs(first - second).max(axis=(0, 2)) > 1e-4).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="settings of each member stay whole"):
        Chunks(multi, 2)
    oracle.assert_close(multi.predictor(memory_limit=2000)(x), multi.predict(x))


def test_a_trunk_with_its_own_rate_is_not_shared():
    trunk = keras.Sequential([keras.Input((3,)), k.Dense(4)])
    trunk.trainable = False

    def build(rate):
        x = keras.Input((3,))
        return keras.Model(x, k.Dense(1)(k.Dropout(rate)(trunk(x))))

    multi = kmw.pack([build(0.1), build(0.3)])
    assert [layer.units for layer in multi.shared_layers()] == [4]
    assert multi.member_settings == {multi.plan()[1]["layer"] + "/rate": [0.1, 0.3]}


def test_groups_are_of_one_architecture_each():
    multi = kmw.pack([network(0.1), network(0.1, units=6), network(0.5)], group=True, verify=False)
    assert multi.group_members == [[0, 2], [1]]
    assert [rates(model)[-1] for model in multi.unpack()] == [0.1, 0.1, 0.5]


def test_layers_join_with_their_rates():
    layers = [k.Dropout(rate) for rate in RATES]
    layer = kmw.layers.MultiDropout.from_member_layers(layers)
    assert layer.member_settings == {"rate": RATES} and layer.member_layer(2).rate == 0.6
    with pytest.raises(ValueError, match=r"keys of \('rate',\).*Received: 1 values for 'seed'"):
        kmw.layers.MultiDropout(0.1, num_members=2, member_settings={"seed": [1]})
    with pytest.raises(ValueError, match=r"rate of each member must be in \[0, 1\). Received: \[0.5, 1.0\]"):
        kmw.layers.MultiGaussianDropout(0.1, num_members=2, member_settings={"rate": [0.5, 1.0]}).build((None, 2, 3))


@keras.saving.register_keras_serializable("test_member_settings")
class Held(k.Layer):
    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, x, training=None):
        return self.inner(x, training=training)

    def get_config(self):
        return {**super().get_config(), "layer": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("layer")), **config)


def test_rates_within_a_layer_that_is_packed_whole_are_refused():
    def build(rate):
        x = keras.Input((3,))
        return keras.Model(x, Held(k.Dropout(rate))(k.Dense(2)(x)))

    with pytest.raises(kmw.IncompatibleModelsError, match=r"(?s)rate=0.1 in member 0 and rate=0.5 in member 1.*as a whole"):
        kmw.pack([build(0.1), build(0.5)])
