"""Members trained in one `fit` end where N separate `fit` calls end."""

import contextlib
import functools

import keras
import numpy as np
import oracle
import pytest
import training_cases as cases
from keras import layers as k
from keras import ops

import keras_multiweight as kmw
from keras_multiweight import testing
from keras_multiweight.testing import assert_trains_alike

SPARSE = {"loss": "sparse_categorical_crossentropy"}
FIT = {"batch_size": 10, "epochs": 3}  # the last batch has 4 rows


def packed():
    """Three MLPs, the same at every call."""
    return kmw.replicate(cases.mlp, 3, seed=0)


def compare(build, **optimizer_or_more):
    return assert_trains_alike(build, cases.data(build), {**SPARSE, **optimizer_or_more}, FIT)


@pytest.mark.parametrize("name", [name for name in cases.MODELS if name != "mlp"])  # which all others train
def test_models_train_alike(name):
    """Adam and clipping by norm: what a stacked variable would couple, and rows of an embedding that come twice."""
    compare(cases.MODELS[name], optimizer=keras.optimizers.Adam(0.01, clipnorm=0.05))


@pytest.mark.parametrize("name", ["SGD-global_clipnorm", "RMSprop-use_ema"])  # steps that add up: test_training_resume.py
def test_optimizers_train_alike(name):
    compare(cases.mlp, optimizer=cases.OPTIMIZERS[name](), metrics=["accuracy"])


@pytest.mark.parametrize("name", ["Muon-weight_decay", "Adafactor-clipvalue"])
def test_optimizers_that_are_not_elementwise_train_alike(name):
    compare(cases.mlp, optimizer=cases.OPTIMIZERS[name]())


def test_an_optimizer_that_keras_computes_otherwise_alone_is_refused():
    if keras.backend.backend() == "jax":
        return compare(cases.mlp, optimizer=keras.optimizers.ScheduleFreeAdamW(0.01))
    with pytest.raises(ValueError, match="ScheduleFreeAdamW trains members as they train alone on JAX only"):
        packed().compile(keras.optimizers.ScheduleFreeAdamW(0.01))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [*cases.OPTIMIZERS, "mixed"])
@pytest.mark.parametrize("name", cases.MODELS)
def test_every_optimizer_trains_every_model_alike(name, optimizer):
    """Over 30 steps from different initial weights, or refused by name."""
    build = cases.MODELS[name]
    one_each = optimizer == "mixed"
    make = mixed_arguments if one_each else lambda i: {**SPARSE, "optimizer": cases.OPTIMIZERS[optimizer]()}
    data, fit = cases.data(build, rows=120), {"batch_size": 8, "epochs": 2}
    arguments = make if one_each else make(0)
    compared = functools.partial(assert_trains_alike, build, data, arguments, fit, num_members=6 if one_each else 3)
    is_refused = optimizer.startswith("ScheduleFreeAdamW") and keras.backend.backend() != "jax"
    with pytest.raises(ValueError, match="ScheduleFreeAdamW trains") if is_refused else contextlib.nullcontext():
        try:
            compared(roundings=0)
        except AssertionError:  # a training that makes much of roundings: without them, or no worse than they make it
            if cases.has_float64(build, make(0)):
                with cases.float64():
                    return compared(tolerance=1e-10, roundings=0)
            compared(roundings=4)


def mixed_arguments(i):
    return {**SPARSE, "optimizer": cases.mixed(i)}


def test_a_training_that_rounding_leads_astray_is_told_from_a_wrong_one():
    check = testing._Comparison([], None, 1e-7, roundings=4)
    assert check._check(1 + 1e-8, 1.0, 1.0, "loss", None) == pytest.approx(1e-8)
    check._check(1 + 1e-6, 1.0, 1.0, "loss", lambda: 5e-7)
    with pytest.warns(UserWarning, match=r"loss: .* differ by 1e-06 \(tolerance 1e-07\).*make 5e-07.*compare it in float64"):
        check.warn()
    with pytest.raises(AssertionError, match=r"differ by 0.001 \(tolerance 1e-07; the last bits .* make 5e-07\)"):
        check._check(1 + 1e-3, 1.0, 1.0, "loss", lambda: 5e-7)
    strict = testing._Comparison([], None, 1e-7, roundings=0)
    with pytest.raises(AssertionError, match=r"differ by 1e-06 \(tolerance 1e-07\)\.$"):
        strict._check(1 + 1e-6, 1.0, 1.0, "loss", None)


def bag_of_words():
    x = keras.Input((6,), dtype="int32")
    return keras.Model(x, k.Dense(3, activation="softmax")(k.GlobalAveragePooling1D()(k.Embedding(7, 4)(x))))


def test_one_optimizer_a_member_trains_alike():
    """On TensorFlow an embedding's gradients are sparse for some of these optimizers, and dense for others."""
    assert_trains_alike(bag_of_words, cases.data(cases.text), mixed_arguments, FIT, num_members=6)


@pytest.mark.parametrize("other", [keras.optimizers.Nadam, keras.optimizers.SGD])
def test_nadam_among_several_optimizers_trains_alike(other):
    """Its step calls that of the class above it, which is the backend's. Keras's step for torch takes 1 - beta_2 from
    Python, its general one, which is mapped over members, from float32: their second moments are 1.3e-5 apart.
    """

    def arguments(i):
        return {**SPARSE, "optimizer": [keras.optimizers.Nadam(0.01), other(0.02)][i]}

    is_torch = keras.backend.backend() == "torch"
    assert_trains_alike(cases.mlp, cases.data(cases.mlp), arguments, FIT, num_members=2, check_state=not is_torch)


def test_a_stacked_clipnorm_is_found(monkeypatch):
    """What coupled the members in an earlier production system: one norm for the gradients of all."""
    from keras_multiweight.training import clipping

    def coupled(gradients, limits):
        norms = [ops.sum(gradient.squares()) for gradient in gradients.values()]
        pairs = zip(gradients.items(), norms)
        return {i: g.map(lambda v, n=n: clipping._limited(v, ops.ones(3) * n, limits)) for (i, g), n in pairs}

    monkeypatch.setattr(clipping, "_by_norm", coupled)
    with pytest.raises(AssertionError, match=r"weight '.*' of member 0: packed and single training differ by"):
        compare(cases.mlp, optimizer=keras.optimizers.Adam(0.01, clipnorm=0.05))


def per_member_data(i):
    """Inputs for all, targets of each member, and a bootstrap of each member; those of member `i`, or all for None."""
    rng = np.random.default_rng(1)
    x, y = cases.data(cases.mlp)
    targets = np.stack([y, rng.permutation(y), rng.permutation(y)], axis=1)[..., None]  # (B, N, 1)
    weights = rng.integers(0, 3, size=(len(x), 3)).astype("float32")  # (B, N)
    return (x, targets, weights) if i is None else (x, targets[:, i], weights[:, i])


def test_targets_and_weights_of_each_member_train_alike():
    options = {**SPARSE, "optimizer": "adam", "weighted_metrics": ["accuracy"], "metrics": ["accuracy"]}
    assert_trains_alike(cases.mlp, per_member_data, options, FIT)


def rows_that_compete(y_true, y_pred):
    """A custom loss that mixes the rows of a batch."""
    return ops.mean(ops.square(y_pred - ops.mean(y_pred, axis=0, keepdims=True))) - ops.mean(ops.log(y_pred[:, :1]))


def two_outputs():
    tokens, numbers = keras.Input((6,), dtype="int32", name="tokens"), keras.Input((4,), name="numbers")
    h = k.LSTM(4, return_sequences=True)(k.Embedding(7, 4, mask_zero=True)(tokens))
    steps = k.Dense(2, name="steps", kernel_regularizer=keras.regularizers.OrthogonalRegularizer())(h)
    return keras.Model([tokens, numbers], [steps, k.Dense(3, activation="softmax", name="one")(numbers)])


def test_several_outputs_masks_and_losses_that_mix_rows_train_alike():
    rng = np.random.default_rng(2)
    x = [cases.data(cases.text)[0], cases.data(cases.mlp)[0]]
    y = [rng.normal(size=(len(x[0]), 6, 2)).astype("float32"), cases.data(cases.mlp)[1]]
    options = {
        "optimizer": keras.optimizers.SGD(0.1),
        "loss": ["mse", rows_that_compete],
        "loss_weights": [2.0, 0.5],
        "metrics": [["mae"], ["accuracy"]],
    }
    assert_trains_alike(two_outputs, (x, y), options, FIT)


def test_a_schedule_is_followed_within_a_program_of_many_steps():
    compare(cases.mlp, optimizer=cases.OPTIMIZERS["SGD-schedule"](), steps_per_execution=3)


def test_class_weights_train_alike():
    """Which rows for validation do not have."""
    fit = {**FIT, "class_weight": {0: 3.0, 1: 0.5}, "validation_split": 0.25}
    options = {**SPARSE, "optimizer": "adam", "weighted_metrics": ["accuracy"]}
    assert_trains_alike(cases.mlp, cases.data(cases.mlp), options, fit)


def spectral():
    x = keras.Input((4,))
    h = k.SpectralNormalization(k.Dense(6, activation="tanh"), power_iterations=2)(x)
    return keras.Model(x, k.SpectralNormalization(k.Dense(3, activation="softmax"))(h))


@pytest.mark.parametrize("steps", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_weights_that_layers_assign_train_alike(steps):
    """Their gradient is that of the new value where Keras assigns at once; a member that is sick has neither."""
    x, y = cases.data(cases.mlp)
    options = {**SPARSE, "optimizer": "adam", "steps_per_execution": steps}
    assert_trains_alike(spectral, (x, y), options, FIT)
    multi = kmw.replicate(spectral, 3, seed=0)
    multi.compile(**options)
    before, weights = multi.member_weights(1), np.ones((len(x), 3))
    weights[2, 1] = np.nan
    with pytest.warns(UserWarning, match="Member 1 is no longer trained"):
        multi.fit(x, y, sample_weight=weights, shuffle=False, verbose=0, **FIT)
    for a, b in zip(before, multi.member_weights(1)):
        np.testing.assert_array_equal(a, b)


class AddsLoss(k.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=shape[1:], initializer="ones", name="scale")

    def call(self, x):
        self.add_loss(0.1 * ops.mean(ops.square(x * self.scale)))
        return x * self.scale


def adding():
    x = keras.Input((4,))
    return keras.Model(x, k.Dense(3, activation="softmax")(AddsLoss()(k.Dense(5)(x))))


@pytest.mark.filterwarnings("ignore:.*has no rule")
def test_losses_that_layers_add_train_alike():
    assert_trains_alike(adding, cases.data(cases.mlp), {**SPARSE, "optimizer": "sgd"}, FIT)


@pytest.fixture(scope="module")
def steps():
    """The same training with one and with several minibatches in a program, validation and a partial batch in both."""
    x, y = cases.data(cases.mlp)
    found = []
    for count in (1, 3, "auto"):
        multi = packed()
        multi.compile("adam", **SPARSE, metrics=["accuracy"], steps_per_execution=count)
        options = {"batch_size": 5, "shuffle": False, "verbose": 0, "validation_data": (x[:7], y[:7])}
        history = multi.fit(x, y, epochs=2, sample_weight=np.arange(len(x)), **options)
        found.append((multi, history.history))
    return found


@pytest.mark.parametrize("which", [1, 2])
def test_many_steps_in_one_program_end_where_single_steps_end(steps, which):
    multi, history = steps[which]
    for expected, received in zip(steps[0][0].get_weights(), multi.get_weights()):
        oracle.assert_close(received, expected)
    assert list(history) == list(steps[0][1])
    for name, expected in steps[0][0].member_history.items():
        oracle.assert_close(multi.member_history[name], expected, name)
    x, y = cases.data(cases.mlp)
    oracle.assert_close(multi.evaluate(x, y, verbose=0), steps[0][0].evaluate(x, y, verbose=0))


def test_callbacks_see_minibatches_where_many_are_one_program(steps):
    seen = []
    watcher = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append((batch, "loss" in logs)))
    x, y = cases.data(cases.mlp)
    steps[1][0].fit(x, y, batch_size=5, verbose=0, callbacks=[watcher])
    assert seen == [(2, True), (4, True)]
    del seen[:]
    steps[2][0].fit(x, y, batch_size=5, verbose=0, callbacks=[watcher])
    assert seen == [(i, True) for i in range(5)]


def test_history_has_each_member_and_logs_have_means(steps):
    multi, history = steps[0]
    assert set(multi.member_history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert multi.member_history["val_loss"].shape == (2, 3)
    oracle.assert_close(np.array(history["loss"]), multi.member_history["loss"].mean(axis=1))


def test_metrics_of_the_ensemble_are_those_of_the_mean(steps):
    multi, _ = steps[0]
    x, y = cases.data(cases.mlp)
    logs = multi.evaluate(x, y, verbose=0, return_dict=True)
    answers = multi.predict(x)
    assert logs["ensemble_accuracy"] == pytest.approx((answers.mean(axis=1).argmax(axis=1) == y).mean())
    oracle.assert_close(multi.member_metrics()["accuracy"], (answers.argmax(axis=2) == y[:, None]).mean(axis=0))


@pytest.mark.parametrize("steps", [1, 2])
def test_a_sick_member_is_quarantined_and_the_others_go_on(steps):
    """Also where a program of many steps did not know that it would be sick."""
    x, y = cases.data(cases.mlp)
    healthy, sick = (packed() for _ in range(2))
    for multi, weights in ((healthy, np.ones((len(x), 3))), (sick, np.ones((len(x), 3)))):
        weights[15, 1] = np.nan if multi is sick else 1.0  # in the second batch
        multi.compile("adam", **SPARSE, steps_per_execution=steps)
        if multi is sick:
            with pytest.warns(UserWarning, match=r"Member 1 is no longer trained: .* at step 2 \(epoch 1\)"):
                multi.fit(x, y, sample_weight=weights, shuffle=False, verbose=0, **FIT)
        else:
            multi.fit(x, y, sample_weight=weights, shuffle=False, verbose=0, **FIT)
    assert sick.optimizer.quarantined.tolist() == [0, 2, 0]
    for i in (0, 2):
        for a, b in zip(healthy.member_weights(i), sick.member_weights(i)):
            np.testing.assert_array_equal(a, b)
    assert all(np.isfinite(w).all() for w in sick.member_weights(1))
    assert np.isfinite(sick.member_history["loss"][:, [0, 2]]).all()
    assert np.isfinite(sick.history.history["loss"]).all()


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.Adam(0.01, amsgrad=True, weight_decay=0.1),
        keras.optimizers.Nadam(0.01),
        keras.optimizers.RMSprop(0.01, momentum=0.9, centered=True),
    ],
)
def test_a_member_that_rests_keeps_its_weights_its_statistics_and_its_state(optimizer):
    """Also a kernel that its layer assigns, before the optimizer sees it."""
    x, y = cases.data(cases.mlp)
    normalised = k.SpectralNormalization(k.Dense(6, activation="tanh", use_bias=False))
    inner = [normalised, k.BatchNormalization(), k.Dense(3, activation="softmax")]
    models = kmw.replicate(keras.Sequential([keras.Input((4,)), *inner]), 3, seed=0).unpack()
    multi = kmw.pack(models, verify=False)
    multi.compile(optimizer, **SPARSE)
    multi.train_on_batch(x, y)
    before, variables = state_of(multi), [*multi.variables, *multi.optimizer.variables]
    values = [ops.convert_to_numpy(v) for v in variables]
    multi.train_on_batch(x, y)
    all_active = state_of(multi)
    for variable, value in zip(variables, values):
        variable.assign(value)
    multi.optimizer.active.assign(np.array([1, 0, 1]))
    multi.train_on_batch(x, y)
    for i, received in enumerate(state_of(multi)):
        for group, other in zip(before[1] if i == 1 else all_active[i], received):
            for a, b in zip(group, other, strict=True):
                assert not np.shape(a) or np.array_equal(a, b)


def state_of(multi):
    """For each member the state of its optimizer, without the number of steps, and its weights."""
    return [(multi.optimizer.member_state(i)[1:], multi.member_weights(i)) for i in range(multi.num_members)]


@pytest.fixture
def half_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


def test_in_half_precision_the_loss_of_each_member_is_scaled_alone(half_precision):
    """One member's gradients overflow in the second batch: it alone leaves out the step, and halves its scale."""
    x, y = cases.data(cases.mlp)  # whose model Keras alone does not train in halves on TensorFlow
    layers = [keras.Input((4,)), k.Dense(6, activation="tanh"), k.Dense(3, activation="softmax", dtype="float32")]
    multi = kmw.replicate(keras.Sequential(layers), 3, seed=0)
    weights = np.ones((len(x), 3), "float32")
    weights[10:20, 1] = 1e30
    singles, starts = multi.unpack(), [multi.member_weights(i) for i in range(3)]
    multi.compile("sgd", **SPARSE)
    multi.fit(x, y, sample_weight=weights, shuffle=False, verbose=0, **FIT)
    for i, (single, start) in enumerate(zip(singles, starts)):
        single.compile("sgd", **SPARSE)
        single.fit(x, y, sample_weight=weights[:, i], shuffle=False, verbose=0, **FIT)
        moved = max(np.abs(a - b).max() for a, b in zip(single.get_weights(), start))
        for expected, received in zip(single.get_weights(), multi.member_weights(i)):
            oracle.assert_close(received, expected, f"member {i}", tolerance=2e-3, scale=moved)  # halves have 11 bits
        scale = float(ops.convert_to_numpy(single.optimizer.dynamic_scale))
        assert multi.optimizer.member_state(i)[-1] == scale == 2.0 ** (12 if i == 1 else 15)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_step_that_a_member_leaves_out_counts_for_the_others_only(steps):
    """Neither are its gradients accumulated, nor its weights averaged."""
    x, y = cases.data(cases.mlp)
    weights = np.ones((len(x), 3), "float32")
    weights[5:10, 1] = 1e37  # times the scale more than a float32 can be
    inner = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2, use_ema=True, ema_overwrite_frequency=2)
    arguments = {"optimizer": keras.optimizers.LossScaleOptimizer(inner), **SPARSE, "steps_per_execution": steps}
    data = lambda i: (x, y, weights if i is None else weights[:, i])  # noqa: E731
    assert_trains_alike(cases.mlp, data, arguments, {"batch_size": 5, "epochs": 3}, roundings=0)


def test_the_kit_compares_trainings_in_half_precision(half_precision):
    """Where Keras makes an optimizer that scales losses of the one that is given."""

    def build():
        return keras.Sequential([keras.Input((4,)), k.Dense(5, activation="tanh"), k.Dense(3, dtype="float32")])

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert_trains_alike(build, cases.data(cases.mlp), {"optimizer": "sgd", "loss": loss}, FIT, tolerance=2e-3, roundings=0)


def test_training_on_one_batch_trains_alike():
    x, y = cases.data(cases.mlp)
    multi, whole = (packed() for _ in range(2))
    for model in (multi, whole):
        model.compile("adam", **SPARSE, metrics=["accuracy"])
    logs = multi.train_on_batch(x, y, return_dict=True)
    history = whole.fit(x, y, batch_size=len(x), verbose=0).history
    assert logs["loss"] == pytest.approx(history["loss"][0])
    assert len(multi.test_on_batch(x, y)) == 3


@pytest.mark.parametrize(
    ("arguments", "data", "message"),
    [
        ({}, {"y": np.zeros((8, 3, 3))}, None),
        ({}, {"y": np.zeros((8, 2, 1))}, r"must hold the 3 members. Received: shape \(B, 2, 1\)"),
        ({}, {"y": np.zeros((8, 1)), "sample_weight": np.zeros((8, 2))}, r"sample weight .* must hold the 3 members"),
        ({"optimizer": ["adam", "sgd"]}, {"y": np.zeros((8, 1))}, "must have one a member, 3. Received: 2"),
        ({"member_targets": False}, {"y": np.zeros((8, 3))}, None),
        ({"member_targets": True}, {"y": np.zeros((8, 3))}, None),
    ],
)
def test_wrong_data_is_named(arguments, data, message):
    multi = kmw.replicate(keras.Sequential([keras.Input((4,)), k.Dense(3)]), 3)

    def run():
        multi.compile(**{"optimizer": "sgd", "loss": lambda y, p: ops.mean(p) + ops.mean(y), **arguments})
        multi.fit(np.zeros((8, 4), "float32"), verbose=0, **data)

    if message is None:
        return run()
    with pytest.raises(ValueError, match=message):
        run()


def test_a_compiled_model_is_saved_and_goes_on(tmp_path):
    x, y = cases.data(cases.mlp)
    whole = packed()
    whole.compile(keras.optimizers.Adam(0.01, clipnorm=0.1), **SPARSE, metrics=["accuracy"])
    options = {"batch_size": 10, "shuffle": False, "verbose": 0, "epochs": 2}
    whole.fit(x, y, **options)
    whole.save(tmp_path / "part.keras")
    rest = keras.models.load_model(tmp_path / "part.keras")
    for multi in (whole, rest):
        multi.fit(x, y, **options)
    for a, b in zip(whole.get_weights(), rest.get_weights()):
        np.testing.assert_array_equal(a, b)
