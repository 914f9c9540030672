"""Layers that draw in training: every member draws for itself, as N models alone would."""

import keras
import numpy as np
import pytest
from cases.augmentation import BATCHES, ROWS
from keras import layers as k
from keras import ops

import keras_multiweight as kmw

MEMBERS, IMAGES = 3, 4
DROPOUTS = {
    "Dropout": lambda: k.Dropout(0.5),
    "Dropout with a noise shape": lambda: k.Dropout(0.5, noise_shape=(None, 1, 1, 3)),
    "Dropout alike for all rows": lambda: k.Dropout(0.5, noise_shape=(1, 7, 7, 3)),
    "AlphaDropout": lambda: k.AlphaDropout(0.5),
    "GaussianDropout": lambda: k.GaussianDropout(0.5),
    "GaussianNoise": lambda: k.GaussianNoise(0.5),
    "SpatialDropout2D": lambda: k.SpatialDropout2D(0.5),
}
FEW_OUTCOMES = {"RandomFlip", "RandomGrayscale", "RandomInvert", "RandomCrop", "Dropout with a noise shape"}


def packed_layer(make):
    def build():
        inputs = keras.Input((7, 7, 3))
        return keras.Model(inputs, make()(inputs))

    keras.utils.clear_session()
    return kmw.pack([build() for _ in range(MEMBERS)], verify=False)


def drawn(multi):
    """What each member makes of equal images in training, as bytes."""
    image = np.random.default_rng(0).random((1, 7, 7, 3)).astype("float32")
    outputs = ops.convert_to_numpy(multi(ops.convert_to_tensor(np.repeat(image, IMAGES, 0)), training=True))
    return [outputs[:, i].tobytes() for i in range(MEMBERS)]


NAMES = sorted({*ROWS, *BATCHES, *DROPOUTS} - {"CutMix"})  # of equal images it shows nothing
MANY_DRAWS = {"AugMix", "RandAugment"}  # made of the others


@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.slow) if x in MANY_DRAWS else x for x in NAMES])
def test_members_draw_for_themselves(name):
    multi = packed_layer({**ROWS, **BATCHES, **DROPOUTS}[name])
    assert any(len(set(drawn(multi))) == MEMBERS for _ in range(8 if name in FEW_OUTCOMES else 2))


def test_rows_are_mixed_within_a_member_only():
    """MixUp of images that say whose they are: a fold of members into rows would mix them."""
    inputs = keras.Input((2, 2, 1))

    def build():
        x = k.Conv2D(1, 1, use_bias=False)(inputs)
        return keras.Model(inputs, k.MixUp()(x))

    models = [build() for _ in range(MEMBERS)]
    for i, model in enumerate(models):
        model.set_weights([np.full((1, 1, 1, 1), 10.0**i)])
    outputs = ops.convert_to_numpy(kmw.pack(models)(ops.ones((6, 2, 2, 1)), training=True))
    for i in range(MEMBERS):
        np.testing.assert_allclose(outputs[:, i], 10.0**i, rtol=1e-5)
