"""Copies of layers, also those that are made while Keras saves or loads a model."""

import zipfile

import h5py
import keras
import numpy as np
import oracle
import pytest
from keras import layers as k

import keras_multiweight as kmw
from keras_multiweight.copies import copy_layer


@keras.saving.register_keras_serializable("tests")
class Copying(k.Layer):
    """Copies one layer several times while it is itself made from its config."""

    @classmethod
    def from_config(cls, config):
        layer = cls(**config)
        original = k.Dense(3, kernel_regularizer="l2")
        layer.copies = [copy_layer(original) for _ in range(4)]
        return layer

    def call(self, x):
        return x


def test_copies_made_while_keras_loads_are_each_their_own(tmp_path):
    keras.Sequential([k.Input((2,)), Copying()]).save(tmp_path / "model.keras")
    copies = keras.models.load_model(tmp_path / "model.keras").layers[0].copies
    assert len({id(layer) for layer in copies}) == 4
    assert len({id(layer.kernel_regularizer) for layer in copies}) == 4


@pytest.mark.parametrize(
    "build",
    [
        lambda: keras.Sequential([k.Input((4,)), k.Dense(3), k.BatchNormalization()]),
        lambda: keras.Sequential([k.Input((5, 2)), k.LSTM(3)]),
    ],
)
def test_a_saved_pack_holds_the_stacked_weights_alone(build, tmp_path):
    multi = kmw.pack(oracle.members(build, 2))
    multi.save(tmp_path / "packed.keras")
    found = []
    with zipfile.ZipFile(tmp_path / "packed.keras") as archive, archive.open("model.weights.h5") as file:
        h5py.File(file).visititems(lambda _, x: found.append(x.shape) if isinstance(x, h5py.Dataset) else None)
    stacked = [tuple(v.shape) for v in multi.variables]
    assert sorted(found) == sorted(stacked)


def test_a_layer_without_autocast_computes_in_the_dtype_that_it_gets(tmp_path):
    def build():
        x = keras.Input((4,))
        halves = k.Dense(3, dtype="mixed_bfloat16")(x)
        return keras.Model(x, [layer(dtype="float32", autocast=False)(halves) for layer in (k.ReLU, k.LayerNormalization)])

    models, x = oracle.members(build), np.random.default_rng(0).integers(-3, 4, (5, 4)).astype("float32")
    for (
        model
    ) in models:  # whole numbers, of which the products are exact in halves; then roundings of a sum in another order
        model.set_weights([np.round(4 * w) for w in model.get_weights()])
    multi = kmw.pack(models)
    for i, model in enumerate(models):
        wanted = model.predict(x, verbose=0)
        for received, own, expected in zip(multi.predict(x), multi.member(i).predict(x, verbose=0), wanted):
            assert received.dtype == own.dtype == expected.dtype
            oracle.assert_close(received[:, i], expected, tolerance=2**-7)
            oracle.assert_close(own, expected)
    oracle.assert_saves_the_same(multi, x, tmp_path)


def _users_metric(y, predicted):
    return keras.ops.mean(keras.ops.abs(y - predicted))


class UsersLoss(keras.losses.Loss):
    def call(self, y, predicted):
        return keras.ops.mean(keras.ops.square(y - predicted), axis=-1)


def _users_loss(y, predicted):
    return keras.ops.mean(keras.ops.square(y - predicted), axis=-1)


@keras.saving.register_keras_serializable("test_copies")
class TakesSettings(k.Layer):
    """Has an argument of a name that Keras uses in configs of models."""

    def __init__(self, compile_config=None, **kwargs):
        super().__init__(**kwargs)
        self.settings = compile_config or {"scale": 1.0}

    def call(self, x):
        return x * self.settings["scale"]

    def get_config(self):
        return {**super().get_config(), "compile_config": self.settings}


def test_arguments_of_users_layers_stay_whatever_their_names(tmp_path):
    multi = kmw.pack([keras.Sequential([keras.Input((4,)), k.Dense(2), TakesSettings({"scale": 3.0})]) for _ in range(2)])
    oracle.assert_saves_the_same(multi, np.ones((3, 4), "float32"), tmp_path)


def test_members_compiled_with_what_is_not_registered_train_on_packed():
    def build():
        model = keras.Sequential([keras.Input((4,)), k.Dense(1)])
        model.compile("adam", _users_loss)
        return model

    with keras.saving.custom_object_scope({"_users_loss": _users_loss}):
        multi = kmw.pack([build() for _ in range(2)], optimizer=True)
    multi.fit(np.ones((4, 4)), np.ones((4, 1)), verbose=0)


USERS = [{"metrics": [_users_metric]}, {"loss": UsersLoss()}, {"loss": _users_loss}, {"metrics": ["mae"]}]


@pytest.mark.parametrize("options", USERS)
@pytest.mark.parametrize("nested", [False, True])
def test_models_compiled_with_what_is_not_registered_are_packed_saved_and_unpacked(options, nested, tmp_path):
    def build():
        model = keras.Sequential([keras.Input((4,)), k.Dense(3)])
        model.compile(**{"optimizer": "adam", "loss": "mse", **options})
        inputs = keras.Input((4,))
        return keras.Model(inputs, k.Dense(2)(model(inputs))) if nested else model

    models, x = oracle.members(build), np.ones((5, 4), "float32")
    multi = kmw.pack(models)
    multi.save(tmp_path / "multi.keras")
    (expected,) = oracle.stacked_predictions(models, x, 5)
    oracle.assert_close(keras.models.load_model(tmp_path / "multi.keras").predict(x), expected)
    for i, member in enumerate(multi.unpack()):
        oracle.assert_close(member.predict(x, verbose=0), expected[:, i])
        assert not nested or not member.compiled
        assert nested or member.compiled or options != {"metrics": ["mae"]}
