"""Copies of layers, also those that are made while Keras saves or loads a model."""

import zipfile

import h5py
import keras
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
