"""A training that began alone goes on packed, and one that began packed goes on alone."""

import keras
import numpy as np
import oracle
import pytest
import training_cases as cases

import keras_multiweight as kmw

X, Y = cases.data(cases.mlp)
SPARSE = "sparse_categorical_crossentropy"
FIT = {"batch_size": 8, "shuffle": False, "verbose": 0}
EMA = keras.backend.backend() != "jax"  # where a second `fit` of one model with moving averages fails in Keras
SLOW = ("mixed", "scaled")
OPTIMIZERS = {
    "averaged": lambda i: keras.optimizers.Adam(0.01, use_ema=EMA, gradient_accumulation_steps=2, clipnorm=0.1),
    "mixed": cases.mixed,
    "scaled": lambda i: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, 0.9), dynamic_growth_steps=4),
}


def compiled(make, num_members=3):
    models = kmw.replicate(cases.mlp, num_members, seed=0).unpack()
    for i, model in enumerate(models):
        model.compile(make(i), SPARSE, metrics=[keras.metrics.SparseCategoricalAccuracy(name="right")])
    return models


@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.slow) if x in SLOW else x for x in OPTIMIZERS])
def test_members_train_on_packed_and_apart_as_they_would_alone(name):
    """An epoch alone, one packed, one alone again; and two more alone in place of them."""
    alone = compiled(OPTIMIZERS[name], 3 if name == "mixed" else 2)
    starts = [model.get_weights() for model in alone]
    for model in alone:
        model.fit(X, Y, **FIT)
    multi = kmw.pack(alone, optimizer=True, verify=False)  # which leaves the models as they are
    multi.fit(X, Y, **FIT)
    assert "right" in multi.member_history
    ends = kmw.unpack(multi, optimizer=True)
    for i, (start, model, end) in enumerate(zip(starts, alone, ends)):
        for _ in range(2):
            model.fit(X, Y, **FIT)
        end.fit(X, Y, **FIT)
        moved = max(np.abs(a - b).max() for a, b in zip(model.get_weights(), start))
        for expected, received in zip(model.get_weights(), end.get_weights(), strict=True):
            oracle.assert_close(received, expected, f"member {i}", scale=moved)


def test_optimizers_that_differ_are_saved_and_go_on(tmp_path):
    whole = kmw.replicate(cases.mlp, 3, seed=0)
    whole.compile([cases.mixed(i) for i in (0, 2, 3)], SPARSE)
    whole.fit(X, Y, **FIT)
    whole.save(tmp_path / "part.keras")
    rest = keras.models.load_model(tmp_path / "part.keras")
    for multi in (whole, rest):
        multi.fit(X, Y, **FIT)
    for a, b in zip(whole.get_weights(), rest.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_models_that_cannot_train_on_together_are_named(tmp_path):
    models = compiled(lambda i: keras.optimizers.Adam(0.01))
    models[1].train_on_batch(X, Y)
    with pytest.raises(ValueError, match=r"equally many steps. Received: \[0, 1, 0\] steps"):
        kmw.pack(models, optimizer=True)
    models[2].compile("adam", "mse")
    with pytest.raises(ValueError, match=r"Received: loss='sparse_.*' in member 0 and loss='mse' in member 2"):
        kmw.pack(models, optimizer=True)
    with pytest.raises(ValueError, match=r"member 0, '.*', which has none. Compile it"):
        kmw.pack([cases.mlp()], optimizer=True)
    models[0].save(tmp_path / "0.keras")
    with pytest.raises(ValueError, match="Received: paths and optimizer=True"):
        kmw.pack(tmp_path, optimizer=True)
    with pytest.raises(ValueError, match="which was never compiled"):
        kmw.pack(models).unpack(optimizer=True)
