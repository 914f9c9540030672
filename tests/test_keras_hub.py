"""Backbones of keras-hub, where it is installed: random weights, tiny sizes."""

import keras
import numpy as np
import oracle
import pytest
from keras import tree

import keras_multiweight as kmw

keras_hub = pytest.importorskip("keras_hub")
pytestmark = pytest.mark.filterwarnings("ignore:.*has no rule of its own")

TEXT = {"vocabulary_size": 17, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}


def bert():
    return keras_hub.models.BertBackbone(**TEXT, max_sequence_length=9)


def gpt2():
    return keras_hub.models.GPT2Backbone(**TEXT, max_sequence_length=9)


def resnet():
    return keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(16, 16, 3),
    )


def vit():
    return keras_hub.models.ViTBackbone(
        image_shape=(16, 16, 3), patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16
    )


def inputs_of(model):
    rng = np.random.default_rng(0)

    def one(x):
        if "int" not in x.dtype:
            return rng.normal(size=(5, *x.shape[1:])).astype("float32")
        if "mask" in x.name:
            return (np.arange(9) < rng.integers(3, 10, (5, 1))).astype("int32")
        return rng.integers(0, 2 if "segment" in x.name else 17, (5, 9)).astype("int32")

    return tree.map_structure(one, model.input)


@pytest.mark.parametrize("build", [bert, gpt2, resnet, vit])
def test_a_backbone_packs_and_predicts(build, tmp_path):
    keras.utils.clear_session()
    models = oracle.members(build)
    multi, x = kmw.pack(models), inputs_of(models[0])
    expected = oracle.stacked_predictions(oracle.each_in(models[0], models), x, 3)
    for received, wanted in zip(tree.flatten(multi.predict(x, batch_size=3)), expected, strict=True):
        oracle.assert_close(received, wanted)
    member = multi.member(1)
    assert type(member) is type(models[1])
    for received, wanted in zip(*(tree.flatten(m.predict(x, verbose=0)) for m in (member, models[1])), strict=True):
        oracle.assert_close(received, wanted)
    if build is vit:  # whose layer ViTPatchingAndEmbedding refuses its own config, in keras-hub 0.32
        with pytest.raises(ValueError, match="custom classes ViTPatchingAndEmbedding"):
            multi.save(tmp_path / "packed.keras")
        return
    multi.save(tmp_path / "packed.keras")
    loaded = keras.models.load_model(tmp_path / "packed.keras")
    for received, wanted in zip(*(tree.flatten(m.predict(x)) for m in (loaded, multi)), strict=True):
        oracle.assert_close(received, wanted)
