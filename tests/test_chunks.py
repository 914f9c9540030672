"""Members computed in chunks, memory, and what `tune` finds, against the loop over members."""

import concurrent.futures

import keras
import numpy as np
import oracle
import pytest
from cases import CASES
from keras import layers as k
from keras import ops, tree
from test_pack import inputs_for, tolerance_of
from test_predictor import CountsCalls, mixed, mixed_data, mlp

import keras_multiweight as kmw
from keras_multiweight.prediction import lowerings
from keras_multiweight.prediction.tuned import Tuned

MEMBERS = 5  # no multiple of the chunks
BACKEND = keras.backend.backend()
SLOW = pytest.mark.slow
WAYS = {
    "tensorflow": (True, pytest.param(False, marks=SLOW)),
    "jax": (True,),
    "torch": (False, pytest.param(True, marks=SLOW)),
}


def data(rows, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 4)).astype("float32")


def of_each(models, x, rows):
    return oracle.stacked_predictions(oracle.each_in(models[0], models), x, rows)


@pytest.fixture(scope="module")
def models():
    return oracle.members(mlp, MEMBERS)


@pytest.fixture(scope="module")
def multi(models):
    return kmw.pack(models, verify=False)


@pytest.mark.parametrize("jit_compile", WAYS[BACKEND])
def test_chunks_of_members_answer_as_the_members_do(jit_compile):
    models = oracle.members(mixed, MEMBERS)
    multi = kmw.pack(models, verify=False)
    ask = multi.predictor(batch_size=4, jit_compile=jit_compile, member_chunk=2)
    for rows in (7, 4):  # a last batch that is filled up, and one that is full
        x = mixed_data(rows)
        answers = ask(x)
        tree.assert_same_structure(answers, multi.output)
        for received, wanted in zip(tree.flatten(answers), of_each(models, x, rows), strict=True):
            oracle.assert_close(received, wanted, f"{rows} rows, {ask!r}")
    assert not ask.failed


@pytest.mark.parametrize("num_members", (3, 4))
def test_chunks_beside_each_other_answer_as_the_members_do(num_members):
    def attending():
        x = keras.Input((3, 4))
        return keras.Model(x, [k.Flatten()(k.MultiHeadAttention(2, 2)(x, x)), k.Dense(2)(x)])

    models = oracle.members(attending, num_members)
    multi = kmw.pack(models, verify=False)
    x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype("float32")
    ask = multi.predictor(member_chunk=1)
    for received, wanted in zip(ask(x), of_each(models, x, 5), strict=True):
        oracle.assert_close(received, wanted, repr(ask))
    assert not ask.failed


# these layers draw seeds in prediction too, which they keep in variables: all members are computed at once
ASSIGN = ("augmentation_of_rows", "augmentation_of_batches", "images_with_labels")


@SLOW
@pytest.mark.parametrize("case", CASES)
def test_every_case_runs_in_chunks(case):
    keras.utils.clear_session()
    models = oracle.members(CASES[case], 3)
    multi = kmw.pack(models, verify=False)
    x = inputs_for(models[0])
    ask = multi.predictor(member_chunk=2, jit_compile=BACKEND == "jax")
    expected = oracle.stacked_predictions(oracle.each_in(models[0], models), x, len(tree.flatten(x)[0]))
    for received, wanted in zip(tree.flatten(ask(x)), expected, strict=True):
        oracle.assert_close(received, wanted, repr(ask), tolerance_of(multi))
    assert case in ASSIGN or "chunks of members" not in ask.failed


def test_each_chunk_reads_the_inputs_of_its_members(models):
    multi = kmw.pack(models, member_inputs=True, verify=False)
    x = np.stack([data(6, seed) for seed in range(MEMBERS)], axis=1)
    expected = np.stack([model.predict_on_batch(x[:, i]) for i, model in enumerate(models)], axis=1)
    ask = multi.predictor(batch_size=4, member_chunk=3)
    oracle.assert_close(ask(x), expected, repr(ask))
    assert not ask.failed


def test_what_all_members_share_is_no_part_of_a_chunk():
    trunk = keras.Sequential([keras.Input((4,)), k.Dense(6, activation="relu")])
    models = []
    for seed in range(MEMBERS):
        model = keras.Sequential([keras.Input((4,)), trunk, oracle.randomized(built(k.Dense(2), 6), seed)])
        models.append(model)
    multi = kmw.pack(models, verify=False)
    assert multi.shared_layers()
    ask = multi.predictor(member_chunk=2)
    oracle.assert_close(ask(data(6)), oracle.stacked_predictions(models, data(6), 6)[0])
    assert not ask.failed


def built(layer, size):
    layer.build((None, size))
    return layer


def test_weights_are_changed_and_asked_for_by_threads_in_chunks(models):
    multi = kmw.pack(models, verify=False)
    ask = multi.predictor(member_chunk=2)
    inputs = [data(6, seed) for seed in range(16)]
    ask(inputs[0])
    multi.set_member_weights(4, [w + 0.5 for w in multi.member_weights(4)])
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, inputs))
    for received, x in zip(answers, inputs):
        oracle.assert_close(received, ops.convert_to_numpy(multi(x)))


@keras.saving.register_keras_serializable("test_chunks")
class Counted(keras.initializers.RandomNormal):
    draws = 0

    def __call__(self, *args, **kwargs):
        Counted.draws += 1
        return super().__call__(*args, **kwargs)


def test_the_graph_of_a_chunk_draws_no_weights_for_its_members():
    multi = kmw.replicate(lambda: keras.Sequential([keras.Input((3,)), k.Dense(2, kernel_initializer=Counted())]), 9, seed=0)
    before = Counted.draws
    chunk = multi.graph_of(5)
    assert Counted.draws - before <= 1  # of the one layer that stands for all
    assert [tuple(w.shape) for w in chunk.weights] == [(5, 3, 2), (5, 2)]
    Counted.draws = 0
    kmw.replicate(lambda: keras.Sequential([keras.Input((3,)), k.Dense(2, kernel_initializer=Counted())]), 9, seed=0)
    assert Counted.draws >= 9


def test_what_moves_when_predicting_is_not_cut_into_chunks():
    multi = kmw.replicate(mlp(CountsCalls), 3, seed=0)
    ask = multi.predictor(member_chunk=2)
    first, second = ask(data(4)), ask(data(4))
    assert np.abs(second - first).max() > 1e-3
    assert "no chunks of members because of ValueError: The model assigns variables" in repr(ask)


# ---- memory ----


@pytest.fixture(scope="module")
def wide():
    """8 members of which each gives 1,000 numbers for a row."""
    return kmw.replicate(keras.Sequential([keras.Input((4,)), k.Dense(1000, activation="relu"), k.Dense(1)]), 8, seed=0)


def test_an_estimate_says_what_predicting_takes(wide):
    whole, cut = wide.estimate(500), wide.estimate(500, memory_limit=2**20)
    assert whole.weights == cut.weights == 8 * 4 * (4 * 1000 + 1000 + 1000 + 1)
    assert whole.answers == cut.answers == 8 * 4 * 500
    assert cut.activations <= 2**20 < whole.activations
    assert whole.total == whole.weights + whole.activations + whole.answers
    assert cut.batch_size < 500 and cut.member_chunk < 8
    assert "8 members on 500 rows" in str(whole)


@pytest.mark.skipif(BACKEND != "torch", reason="torch shares the members of a chunk among the cores")
@pytest.mark.parametrize("members, cores, chunk", [(30, 1, 15), (30, 2, 10), (50, 2, 10), (50, 4, 4)])
def test_a_chunk_gives_each_core_as_many_members(members, cores, chunk, monkeypatch):
    monkeypatch.setattr(lowerings, "cores", lambda: cores)
    network = keras.Sequential([keras.Input((4,)), k.Dense(64, activation="relu"), k.Dense(1)])
    assert kmw.replicate(network, members, seed=0).estimate(1024).member_chunk == chunk


def test_a_limit_of_memory_is_met_by_smaller_parts(wide):
    x = data(500)
    expected = wide.predict(x)
    oracle.assert_close(wide.predict(x, memory_limit=2**20), expected)
    ask = wide.predictor(memory_limit=2**18)
    oracle.assert_close(ask(x), expected)
    assert wide.estimate(500, memory_limit=2**18).activations <= 2**18


def test_a_limit_that_one_member_exceeds_is_refused(wide):
    with pytest.raises(
        ValueError, match=r"must hold what 1 of the members take for 1 of the rows.*memory_limit=1,000 bytes"
    ):
        wide.predict(data(5), memory_limit=1000)
    with pytest.raises(ValueError, match=r"a number of bytes above 0. Received: memory_limit=0"):
        wide.predictor(memory_limit=0)
    with pytest.raises(ValueError, match=r"at least 1. Received: member_chunk=0"):
        wide.predictor(member_chunk=0)
    with pytest.raises(ValueError, match=r"at least 1. Received: rows=0"):
        wide.estimate(0)


# ---- members as one ----


def test_members_are_averaged_and_spread_part_by_part(models, multi, tmp_path):
    x = data(30)
    expected = oracle.stacked_predictions(models, x, 30)[0]
    for name, model, wanted in (
        ("average", multi.average(member_weights=[1, 2, 3, 4, 5]), np.average(expected, axis=1, weights=[1, 2, 3, 4, 5])),
        ("spread", multi.spread(ddof=1), expected.std(axis=1, ddof=1)),
    ):
        ask = model.predictor(batch_size=8, member_chunk=2)
        oracle.assert_close(ask(x), wanted, name)
        assert not ask.failed
        model.save(tmp_path / f"{name}.keras")
        loaded = keras.models.load_model(tmp_path / f"{name}.keras")
        oracle.assert_close(loaded.predict(x), wanted, name)
        oracle.assert_close(loaded.predictor(member_chunk=2)(x), wanted, name)


def test_an_average_of_structures_has_their_structure():
    models = oracle.members(mixed, 2)
    multi = kmw.pack(models, verify=False)
    x = mixed_data(3)
    answers = multi.average().predictor()(x)
    tree.assert_same_structure(answers, multi.output)
    for received, wanted in zip(tree.flatten(answers), oracle.stacked_predictions(models, x, 3), strict=True):
        oracle.assert_close(received, wanted.mean(axis=1))


# ---- tune ----


def test_tuned_models_answer_alike_tell_what_they_gained_and_are_saved(models, tmp_path, capsys):
    x = data(64)
    multi = kmw.pack(models, verify=False, tune=x)
    (found,) = multi.tuned()
    assert capsys.readouterr().out.strip() == str(found)
    assert (found.backend, found.rows) == (BACKEND, 64) and found.gain >= 1.0
    assert found in multi.plan().tuned and "Tuned for 64 rows" in str(multi.plan())
    multi.save(tmp_path / "tuned.keras")
    loaded = keras.models.load_model(tmp_path / "tuned.keras")
    assert loaded.tuned() == multi.tuned()
    assert [x["lowering"] for x in loaded.plan()] == [x["lowering"] for x in multi.plan()]
    for model in (multi, loaded):
        for rows in (64, 50, 3):
            (expected,) = of_each(models, x[:rows], rows)
            oracle.assert_close(model.predict(x[:rows]), expected)
            oracle.assert_close(model.predictor()(x[:rows]), expected)


def test_what_won_by_chance_is_taken_back(models, monkeypatch):
    """The first of two is always the faster here: every candidate wins, and at last the untuned model."""
    from keras_multiweight.prediction.tuning import Tuner

    multi = kmw.pack(models, verify=False)
    before = [row["lowering"] for row in multi.plan()]
    monkeypatch.setattr(Tuner, "_seconds", lambda self, one, other: (1.0, 2.0))
    found = multi.tune(data(64), verbose=False)
    assert found.gain == 1.0 and not found.lowerings and found.member_chunk == multi.estimate(64).member_chunk
    assert [row["lowering"] for row in multi.plan()] == before


def test_what_was_tuned_is_followed_for_about_as_many_rows(models):
    multi = kmw.pack(models, verify=False)
    entry = {"backend": BACKEND, "batch_size": 16, "jit_compile": BACKEND == "jax", "lowerings": {}, "gain": 1.0}
    multi._keep([Tuned(rows=64, member_chunk=2, **entry), Tuned(rows=4, member_chunk=1, **entry)])
    sizes = {rows: multi.estimate(rows).member_chunk for rows in (1, 4, 15, 17, 64, 256, 257)}
    assert sizes == {1: 1, 4: 1, 15: 1, 17: 2, 64: 2, 256: 2, 257: MEMBERS}
    assert multi.estimate(64).batch_size == 16
    oracle.assert_close(multi.predict(data(40)), multi.predictor(batch_size=40)(data(40)))


def test_tuning_again_replaces_what_was_found_for_as_many_rows(multi):
    multi.tune(data(8), seconds=0, verbose=False)
    multi.tune(data(8), seconds=0, verbose=False)
    multi.tune(data(2), seconds=0, verbose=False)
    assert [found.rows for found in multi.tuned()] == [8, 2]
    assert all(found.gain == 1.0 and not found.lowerings for found in multi.tuned())
