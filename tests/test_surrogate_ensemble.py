"""The packed ensemble of the surrogate: every member trains, ascends and answers as it would alone."""

import keras
import numpy as np
import pytest

import keras_multiweight as kmw
from keras_multiweight.surrogate.ensemble import PackedEnsemble, default_network, evolution_gradient
from keras_multiweight.surrogate.rules import RULES

N, B, D = 3, 12, 4
UNITS = (8, 6)
KINDS = {"optimizers": ["adam", "rprop", "rmsprop"], "rates": [0.01, 0.003, 0.003], "sparsity": [0.0, 0.3, 0.1]}


@pytest.fixture(scope="module")
def compiled():
    return PackedEnsemble(default_network(D, UNITS), N, D, seed=0, **KINDS)


@pytest.fixture
def ensemble(compiled):
    """Fresh members, without compiling again."""
    compiled.restart(seed=0)
    return compiled


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (B, N, D))
    return x, np.sin(2 * x.sum(axis=2)), rng.exponential(size=(B, N))


def as_keras_model(ensemble, i, network=None):
    """Member i as a model of its own."""
    model = (network or default_network(D, UNITS))()
    row, at = ensemble.weights[i], 0
    values = []
    for weight in model.trainable_variables:
        size = int(np.prod(weight.shape))
        values.append(row[at : at + size].reshape(weight.shape))
        at += size
    model.set_weights(values)
    return model


def be_member(single, ensemble, i):
    """Make an ensemble of one member the member i of another, with the state of its optimizer."""
    part = slice(i, i + 1)
    single._choice, single._rates = ensemble._choice[part], ensemble._rates[part]
    single.weights, single.slots, single.steps = ensemble.weights[part], ensemble.slots[:, part], ensemble.steps[part]


def test_replicas_with_inputs_of_their_own_answer_on_their_own_rows(tmp_path):
    multi = kmw.replicate(default_network(D, (8,)), N, seed=1, member_inputs=True)
    x = np.random.default_rng(1).normal(size=(5, N, D)).astype("float32")
    expected = [multi.member(i).predict(x[:, i], verbose=0) for i in range(N)]
    np.testing.assert_allclose(multi.predict(x), np.stack(expected, axis=1), rtol=1e-5, atol=1e-6)
    multi.save(tmp_path / "multi.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "multi.keras").predict(x), multi.predict(x))


def test_ensemble_answers_as_its_members_alone(ensemble, data):
    x = data[0].astype("float32")
    expected = [as_keras_model(ensemble, i)(x[:, i]) for i in range(N)]
    expected = np.stack([keras.ops.convert_to_numpy(y)[:, 0] for y in expected], axis=1)
    np.testing.assert_allclose(ensemble.predict(x), expected, rtol=1e-5, atol=1e-6)


def test_members_train_and_ascend_together_as_they_do_alone(ensemble, data):
    single = PackedEnsemble(default_network(D, UNITS), 1, D, 0, *(values[:1] for values in KINDS.values()))
    low, high = np.full((N, D), -0.5), np.full((N, D), 0.7)
    for _ in range(2):  # the second goes on from the last weights and slots
        expected = []
        for i in range(N):
            be_member(single, ensemble, i)
            single.train(*(a[:, i : i + 1] for a in data), 15)
            expected.append((single.weights[0], single.ascend(data[0][:, i : i + 1], low[:1], high[:1], 5)[:, 0]))
        ensemble.train(*data, 15)
        ends = ensemble.ascend(data[0], low, high, 5)
        for i, (weights, alone_ends) in enumerate(expected):
            np.testing.assert_allclose(ensemble.weights[i], weights, rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(ends[:, i], alone_ends, rtol=1e-3, atol=1e-4)
    assert ends.min() >= -0.5 and ends.max() <= np.float32(0.7)
    inside = np.clip(data[0], -0.5, 0.7)
    assert (ensemble.predict(ends).mean(axis=0) > ensemble.predict(inside).mean(axis=0)).all()


def test_training_fits_and_zeroed_weights_stay_the_members_own(ensemble, data):
    zeros = (ensemble.weights == 0).mean(axis=1)  # biases are zero, too
    assert zeros[1] > zeros[2] > zeros[0]
    before = np.mean((ensemble.predict(data[0]) - data[1]) ** 2, axis=0)
    ensemble.train(*data, 200)
    assert (np.mean((ensemble.predict(data[0]) - data[1]) ** 2, axis=0) < 0.5 * before).all()


@pytest.mark.parametrize("member_update", ["gradient", "evolution"])
def test_narrow_member_trains_as_a_narrow_network_does(data, member_update, monkeypatch):
    """Units that are switched off stay off, and the others do not notice."""
    monkeypatch.setattr("keras_multiweight.surrogate.ensemble.PAIRS", 1)
    kinds = {name: values[:1] for name, values in KINDS.items()}
    wide = PackedEnsemble(default_network(D, (8,)), 1, D, 0, **kinds, widths=[0.5], member_update=member_update)
    narrow = PackedEnsemble(default_network(D, (4,)), 1, D, 0, **kinds, member_update=member_update)
    own = wide._exists[0] == 1
    narrow.weights = wide.weights[:, own]
    assert own.sum() == narrow.weights.shape[1] and not wide.weights[:, ~own].any()
    if member_update == "evolution":  # the same directions for the weights that both have
        drawn = wide._directions()
        wide._directions, narrow._directions = lambda: drawn * own, lambda: drawn[..., own]
    for ensemble in (wide, narrow):
        ensemble.train(*(a[:, :1] for a in data), 15)
    np.testing.assert_allclose(wide.weights[:, own], narrow.weights, rtol=1e-3, atol=1e-5)
    assert not wide.weights[:, ~own].any()
    np.testing.assert_allclose(wide.predict(data[0][:, :1]), narrow.predict(data[0][:, :1]), rtol=1e-3, atol=1e-5)


def test_first_layer_begins_steeper():
    plain, steep = (PackedEnsemble(default_network(D, UNITS), N, D, 0, **KINDS, steepness=by) for by in (1.0, 2.0))
    first = plain._places[0][1]
    np.testing.assert_array_equal(steep.weights[:, :first], 2 * plain.weights[:, :first])
    np.testing.assert_array_equal(steep.weights[:, first:], plain.weights[:, first:])
    assert plain._places[0][2] == (N, D, UNITS[0]) and plain.weights[:, :first].any()


def test_members_of_blocks_are_sums_of_functions_of_some_coordinates_after_training_too():
    dim, kinds = 9, {name: values[:3] for name, values in KINDS.items()}
    ensemble = PackedEnsemble(default_network(dim, (16, 16)), 3, dim, 0, **kinds, widths=[1.0, 0.5, 0.5], blocks=[0, 2, 3])
    rng = np.random.default_rng(3)
    x = rng.normal(size=(B, 3, dim))
    ensemble.train(x, np.prod(x[..., :3], axis=-1), np.ones((B, 3)), 50)
    point, step = rng.normal(size=dim), 0.5 * np.eye(dim)
    corners = [point, *(point + step), *(point + step[i] + step[j] for i in range(dim) for j in range(dim))]
    answers = ensemble.predict(np.repeat(np.array(corners)[:, None], 3, axis=1))
    here, one, two = answers[0], answers[1 : 1 + dim], answers[1 + dim :].reshape(dim, dim, 3)
    interact = np.abs(two - one[:, None] - one[None] + here) > 1e-5  # (dim, dim, 3), mixed differences
    assert (np.abs(one - here) > 1e-5).all()  # every member sees all coordinates
    partners = [interact[..., i].sum(axis=1) for i in range(3)]  # with itself, too
    assert (
        (partners[0] == dim).all() and set(partners[1]) == {1, 2} and (partners[2] == dim).all()
    )  # three blocks are too few


def test_rows_of_weight_zero_do_not_count(ensemble, data):
    x, y, weights = data
    weights = weights * (np.arange(B) < 7)[:, None]
    ensemble.train(x, y, weights, 10)
    expected = ensemble.weights
    ensemble.restart(seed=0)
    ensemble.train(np.where(weights[..., None] > 0, x, 9.0), np.where(weights > 0, y, 9.0), weights, 10)
    np.testing.assert_allclose(ensemble.weights, expected, rtol=1e-4, atol=1e-6)


def steps_of(name, gradients):
    """What a rule makes of one gradient after another, (steps, P)."""
    first = second = keras.ops.zeros(gradients.shape[1:])
    directions = []
    for step, gradient in enumerate(gradients, 1):
        direction, first, second = RULES[name](float(step), keras.ops.convert_to_tensor(gradient), first, second)
        directions.append(keras.ops.convert_to_numpy(direction))
    return np.stack(directions)


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_rule_steps_as_keras_does(name):
    gradients = np.random.default_rng(2).normal(size=(6, 5)).astype("float32")
    optimizer = {"adam": keras.optimizers.Adam(0.1, beta_2=0.99), "rmsprop": keras.optimizers.RMSprop(0.1)}[name]
    variable = keras.Variable(np.zeros(5, "float32"))
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    bias = np.sqrt(1 - 0.9 ** np.arange(1, 7))[:, None] if name == "rmsprop" else 1.0  # Keras's has a biased mean
    expected = -0.1 * (steps_of(name, gradients) / bias).sum(axis=0)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), expected, rtol=1e-3, atol=1e-5)


def test_rprop_grows_while_the_sign_stays_and_halves_where_it_turns():
    gradients = np.array([[3.0], [0.1], [5.0], [-2.0], [-1.0]], "float32")
    np.testing.assert_allclose(steps_of("rprop", gradients)[:, 0], [1.0, 1.2, 1.44, 0.0, -0.72], rtol=1e-6)


def test_evolution_estimates_the_gradient_of_each_member():
    rng = np.random.default_rng(3)
    slopes, weights = rng.normal(size=(2, 6)).astype("float32"), rng.normal(size=(2, 6)).astype("float32")
    directions = rng.normal(size=(64, 2, 6)).astype("float32")
    tensors = [keras.ops.convert_to_tensor(a) for a in (slopes, weights, directions)]
    estimates = [
        keras.ops.convert_to_numpy(
            evolution_gradient(lambda w: keras.ops.sum(tensors[0] * w, axis=1), *tensors[1:], float(at))
        )
        for at in range(8)  # 8 steps of 8 pairs: every direction once
    ]
    exact = np.einsum("mni,mnj,nj->ni", directions, directions, slopes) / 64
    np.testing.assert_allclose(np.mean(estimates, axis=0), exact, rtol=1e-2, atol=1e-2)


def test_evolution_trains_without_gradients_of_weights(data, monkeypatch):
    monkeypatch.setattr("keras_multiweight.surrogate.ensemble.PAIRS", 3)
    ensemble = PackedEnsemble(default_network(D, (4,)), N, D, seed=0, **KINDS, member_update="evolution")
    before = np.mean((ensemble.predict(data[0]) - data[1]) ** 2, axis=0)
    ensemble.train(*data, 60)
    assert (np.mean((ensemble.predict(data[0]) - data[1]) ** 2, axis=0) < before).all()


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch runs programs as it reads them")
def test_nothing_is_compiled_twice(data, monkeypatch):
    ensemble = PackedEnsemble(default_network(D, (4,)), N, D, seed=0, **KINDS)
    traces = []
    forward = ensemble._forward
    monkeypatch.setattr(ensemble, "_forward", lambda *args: traces.append(1) or forward(*args))
    known = []
    for count in (5, 9):
        ensemble.train(*data, count)
        ensemble.ascend(data[0], -np.ones((N, D)), np.ones((N, D)), count)
        ensemble.predict(data[0])
        ensemble.restart(seed=7)
        known.append(len(traces))
    assert known[0] == known[1] > 0


def test_network_of_other_shapes_is_refused():
    with pytest.raises(ValueError, match=r"one input of 4 numbers.*Received: shapes \[\(3,\), \(1,\)\]"):
        PackedEnsemble(default_network(3), N, D, seed=0, **KINDS)
    with pytest.raises(ValueError, match="member_update must be"):
        PackedEnsemble(default_network(D), N, D, seed=0, **KINDS, member_update="luck")
