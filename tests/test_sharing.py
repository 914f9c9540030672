"""What all members compute alike is stored and computed once."""

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k

import keras_multiweight as kmw

ROWS = np.random.default_rng(0).normal(size=(7, 6)).astype("float32")


def fine_tuned(build, num_members=3, own=("head",)):
    """N models that differ in the layers named `own` only, as heads on one trunk do."""
    models = [build() for _ in range(num_members)]
    trained = oracle.randomized(models[0], seed=0).get_weights()
    for i, model in enumerate(models):
        model.set_weights(trained)
        for name in own:
            head = model.get_layer(name)
            head.set_weights([w + 0.1 * i for w in head.get_weights()])
    return models


def trunk_and_head(trainable=True, dropout=0.0):
    inputs = keras.Input((6,))
    x = k.Dense(8, activation="relu", name="trunk", trainable=trainable)(inputs)
    x = k.BatchNormalization(name="norm", trainable=trainable)(x)
    x = k.Dropout(dropout, name="dropout")(x)
    x = k.Dense(8, name="trunk_2", trainable=trainable)(x)
    x = k.Dropout(0.3, name="last_dropout")(x)
    return keras.Model(inputs, k.Dense(2, name="head")(x))


def nested_trunk():
    inputs = keras.Input((6,))
    x = k.Dense(8, activation="relu", name="deep")(inputs)
    trunk = keras.Model(inputs, k.LayerNormalization(name="norm")(x), name="trunk")
    trunk.trainable = False
    inputs = keras.Input((6,))
    return keras.Model(inputs, k.Dense(2, name="head")(trunk(inputs)))


def called_twice():
    """A layer on the inputs of all members, and on what each member has made of them."""
    inputs = keras.Input((6,))
    layer = k.Dense(6, name="twice")
    return keras.Model(inputs, layer(k.Dense(6, name="head")(layer(inputs))))


def rules(multi):
    return {row["layer"]: row["rule"] for row in multi.plan()}


def shared_names(multi):
    return {layer.name for layer in multi.shared_layers()}


def check(models, multi, x=ROWS):
    """Predictions, several batches of them, and every member's weights."""
    expected = oracle.stacked_predictions(models, x, 3)[0]
    oracle.assert_close(multi.predict(x, batch_size=3), expected)
    for i, model in enumerate(models):
        for before, after in zip(model.get_weights(), multi.member(i).get_weights(), strict=True):
            np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    "share, shared",
    [
        ("equal", {"trunk", "norm", "dropout", "trunk_2"}),
        ("frozen", set()),
        (None, set()),
    ],
)
def test_a_common_trunk_is_shared_when_asked_for(share, shared):
    models = fine_tuned(lambda: trunk_and_head(dropout=0.2))
    multi = kmw.pack(models, share=share)
    assert shared_names(multi) == shared
    check(models, multi)


@pytest.mark.parametrize("dropout, shared", [(0.0, {"trunk", "norm", "trunk_2"}), (0.2, {"trunk", "norm"})])
def test_frozen_shares_what_training_leaves_alone(dropout, shared):
    models = fine_tuned(lambda: trunk_and_head(trainable=False, dropout=dropout))
    multi = kmw.pack(models, share="frozen")
    assert shared_names(multi) == shared
    check(models, multi)


def test_shared_weights_are_stored_once_and_the_plan_says_so():
    models = fine_tuned(trunk_and_head)
    multi, apart = kmw.pack(models), kmw.pack(models, share=None)
    trunk = sum(layer.count_params() for layer in multi.shared_layers())
    assert apart.count_params() - multi.count_params() == 2 * trunk
    assert multi.plan().saved_bytes == 2 * 4 * trunk
    assert "MB saved" in str(multi.plan()) and "saved" not in str(apart.plan())


def test_the_last_dropout_keeps_its_own_draws_for_each_member():
    multi = kmw.pack(fine_tuned(trunk_and_head))
    assert rules(multi)["last_dropout"] == "random"


def test_layers_of_a_nested_trunk_are_shared():
    models = fine_tuned(nested_trunk)
    multi = kmw.pack(models, share="frozen")
    assert rules(multi) == {"trunk/deep": "shared", "trunk/norm": "shared", "head": "weighted"}
    check(models, multi)


def test_a_layer_with_one_call_on_members_own_inputs_is_not_shared():
    models = fine_tuned(called_twice)
    multi = kmw.pack(models)
    assert rules(multi) == {"twice": "weighted", "head": "weighted"}
    check(models, multi)


def test_weights_that_differ_in_the_sign_of_zero_are_not_shared():
    models = fine_tuned(trunk_and_head)
    for model, zero in zip(models, (0.0, -0.0, 0.0)):
        kernel, bias = model.get_layer("trunk").get_weights()
        kernel[0, 0] = zero
        model.get_layer("trunk").set_weights([kernel, bias])
    multi = kmw.pack(models)
    assert rules(multi)["trunk"] == "weighted"
    assert np.signbit(multi.member(1).get_layer("trunk").get_weights()[0][0, 0])


def test_a_layer_with_an_activity_penalty_is_not_shared():
    def build():
        inputs = keras.Input((6,))
        x = k.Dense(4, activity_regularizer="l2", name="penalised")(inputs)
        return keras.Model(inputs, k.Dense(2, name="head")(x))

    multi = kmw.pack(fine_tuned(build))
    assert rules(multi)["penalised"] == "weighted"


def test_equal_models_share_everything():
    models = fine_tuned(trunk_and_head, own=())
    multi = kmw.pack(models)
    assert not [layer for layer in multi.layers if isinstance(layer, kmw.layers.MultiDense)]
    check(models, multi)


def test_fresh_members_never_share_layers_that_start_equal():
    model = keras.Sequential([keras.Input((6,)), k.BatchNormalization(), k.Dense(2)])
    multi = kmw.replicate(model, 3)
    assert not multi.shared_layers()


def test_a_shared_trunk_comes_out_of_files_and_is_saved_and_loaded(tmp_path):
    models = fine_tuned(trunk_and_head)
    for i, model in enumerate(models):
        model.save(tmp_path / f"{i}.keras")
    multi = kmw.pack(str(tmp_path / "*.keras"))
    check(models, multi)
    multi.save(tmp_path / "packed.keras")
    loaded = keras.models.load_model(tmp_path / "packed.keras")
    assert shared_names(loaded) == shared_names(multi) != set()
    check(models, loaded)
    oracle.assert_close(loaded.average().predict(ROWS, verbose=0), multi.predict(ROWS).mean(1))


def test_an_unknown_way_to_share_is_refused():
    with pytest.raises(ValueError, match=r"share must be one of \('equal', 'frozen', None\). Received: share='all'"):
        kmw.pack(fine_tuned(trunk_and_head), share="all")


def test_members_with_a_shared_layer_that_trains_are_not_trained():
    models = fine_tuned(lambda: trunk_and_head(dropout=0.2))
    with pytest.raises(
        ValueError, match=r"Received: layers that all members share, trunk, norm, dropout, trunk_2\. Pack with"
    ):
        kmw.pack(models).compile("sgd", "mse")


def test_heads_on_a_frozen_shared_trunk_train_as_each_would_alone():
    models = fine_tuned(lambda: trunk_and_head(trainable=False))
    for model in models:
        model.get_layer("last_dropout").rate = 0.0
    multi = kmw.pack(models, share="frozen")
    assert shared_names(multi) == {"trunk", "norm", "trunk_2"}
    y = np.random.default_rng(1).normal(size=(len(ROWS), 2)).astype("float32")
    options = {"batch_size": 3, "epochs": 2, "shuffle": False, "verbose": 0}
    multi.compile(keras.optimizers.Adam(0.01), "mse")
    multi.fit(ROWS, y, **options)
    for i, model in enumerate(models):
        model.compile(keras.optimizers.Adam(0.01), "mse")
        model.fit(ROWS, y, **options)
        for received, expected in zip(multi.member_weights(i), model.get_weights(), strict=True):
            oracle.assert_close(received, expected)
