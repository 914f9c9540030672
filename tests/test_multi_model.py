"""MultiModel: files, prediction paths, replicate, average."""

import subprocess
import sys

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k

import keras_multiweight as kmw
from keras_multiweight.prediction import lowerings


def build():
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    x = k.Dense(5, activation="relu")(k.Concatenate()([a, b]))
    return keras.Model([a, b], k.Dense(2)(x))


@pytest.fixture(scope="module")
def models():
    return oracle.members(build, 4)


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(70, n)).astype("float32") for n in (3, 2)]


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_files_are_packed_in_order(models, x, tmp_path, ending):
    paths = [tmp_path / f"{i}{ending}" for i in range(4)]
    for model, path in zip(models, paths):
        model.save(path)
    expected = oracle.stacked_predictions(models, x, 32)[0]
    multi = kmw.pack(paths)
    assert multi.member_names == [str(path) for path in paths]
    oracle.assert_close(multi.predict(x), expected)
    oracle.assert_close(kmw.pack(str(tmp_path / f"*{ending}")).predict(x), expected)


def test_a_pattern_is_sorted_with_numbers_as_numbers(tmp_path):
    models = oracle.members(build, 11)
    for i, model in enumerate(models):
        model.save(tmp_path / f"{i}.keras")
    multi = kmw.pack(str(tmp_path / "*.keras"))
    np.testing.assert_array_equal(multi.member(10).get_weights()[0], models[10].get_weights()[0])


def test_compiled_models_are_packed(models, x):
    trained = [keras.models.clone_model(model) for model in models]
    for model, other in zip(trained, models):
        model.compile("adam", "mse")
        model.fit(x, np.zeros((70, 2)), verbose=0)
        other.set_weights(model.get_weights())
    oracle.assert_close(kmw.pack(trained).predict(x), oracle.stacked_predictions(models, x, 70)[0])


def test_packing_leaves_the_random_state_alone(models):
    keras.utils.set_random_seed(1)
    expected = build().get_weights()[0]
    keras.utils.set_random_seed(1)
    kmw.unpack(kmw.pack(models))
    np.testing.assert_array_equal(build().get_weights()[0], expected)


def test_only_keras_files_are_written(models, tmp_path):
    with pytest.raises(ValueError, match=r"ends in .keras. Received: .*packed.h5"):
        kmw.pack(models).save(tmp_path / "packed.h5")


def test_files_of_both_formats_are_packed_together(models, x, tmp_path):
    models[0].save(tmp_path / "0.keras")
    models[1].save(tmp_path / "1.h5")
    multi = kmw.pack([tmp_path / "0.keras", tmp_path / "1.h5"])
    oracle.assert_close(multi.predict(x), oracle.stacked_predictions(models[:2], x, 32)[0])


def test_weights_are_saved_and_loaded(models, x, tmp_path):
    multi = kmw.pack(models)
    multi.save_weights(tmp_path / "all.weights.h5")
    other = kmw.pack(oracle.members(build, 4)[::-1])
    other.load_weights(tmp_path / "all.weights.h5")
    np.testing.assert_array_equal(other.predict(x), multi.predict(x))


def test_a_packed_file_needs_the_import(models, tmp_path):
    kmw.pack(models).save(tmp_path / "packed.keras")
    load = f"keras.models.load_model({str(tmp_path / 'packed.keras')!r})"
    code = f"import keras\ntry: {load}\nexcept TypeError as error: print(error)\nimport keras_multiweight\n{load}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Could not locate class 'MultiModel'" in done.stdout and "'module': 'keras_multiweight.model'" in done.stdout
    assert done.returncode == 0, done.stderr


def test_prediction_paths_agree(models, x):
    multi = kmw.pack(models)
    expected = oracle.stacked_predictions(models, x, 32)[0]
    for answers in (
        multi.predict(x),
        multi.predict(x, batch_size=32),
        multi.predict(x, batch_size=70),
        multi.predict(x, batch_size=16, verbose=2),
        multi.predict(x, steps=1, batch_size=70),
        multi.predict({"a": x[0], "b": x[1]}),
        multi.predict_on_batch(x),
        keras.ops.convert_to_numpy(multi([keras.ops.convert_to_tensor(v) for v in x])),
    ):
        oracle.assert_close(answers, expected)


def test_prediction_sees_changed_weights(models, x):
    multi = kmw.pack(models)
    before = multi.predict(x)
    last = multi.get_layer(multi.weight_places()[-1][0])
    last.bias.assign(last.bias + 1.0)
    oracle.assert_close(multi.predict(x), before + 1.0)


def test_one_row_and_no_rows(models, x):
    multi = kmw.pack(models)
    one = [v[:1] for v in x]
    oracle.assert_close(multi.predict(one), oracle.stacked_predictions(models, one, 1)[0])


@pytest.mark.parametrize("cores", [1, 2, 4, 64])
def test_default_batch_size_keeps_the_widest_layer_in_the_caches(cores, monkeypatch):
    monkeypatch.setattr(lowerings, "cores", lambda: cores)
    small = kmw.replicate(keras.Sequential([keras.Input((4,)), k.Dense(4)]), 2)
    wide = kmw.replicate(keras.Sequential([keras.Input((4,)), k.Dense(4096), k.Dense(1)]), 50)
    assert small.default_batch_size() == 8192
    estimate = wide.estimate(10_000)
    assert estimate.batch_size <= wide.default_batch_size() <= 128
    assert 4096 * estimate.batch_size * estimate.member_chunk <= 2**20


def test_average_is_the_mean_of_the_members(models, x):
    multi = kmw.pack(models)
    oracle.assert_close(multi.average().predict(x, verbose=0), multi.predict(x).mean(axis=1))


def test_replicated_members_differ_and_repeat():
    multi, again = kmw.replicate(build(), 5, seed=3), kmw.replicate(build(), 5, seed=3)
    assert multi.member_seeds == again.member_seeds
    kernels = [multi.member_weights(i)[0] for i in range(5)]
    assert len({kernel.tobytes() for kernel in kernels}) == 5
    for i in range(5):
        np.testing.assert_array_equal(kernels[i], again.member_weights(i)[0])
    assert kmw.replicate(build(), 5, seed=4).member_seeds != multi.member_seeds


def test_a_replicated_member_is_what_its_seed_builds():
    multi = kmw.replicate(build, 3, seed=1)
    for i, seed in enumerate(multi.member_seeds):
        keras.utils.set_random_seed(seed)
        for alone, packed in zip(build().get_weights(), multi.member_weights(i), strict=True):
            np.testing.assert_array_equal(alone, packed)


def test_seeds_in_initializers_do_not_make_replicas_equal():
    def fixed():
        init = keras.initializers.GlorotUniform(seed=7)
        return keras.Sequential([keras.Input((3,)), k.Dense(2, kernel_initializer=init)])

    multi = kmw.replicate(fixed(), 2, seed=0)
    assert not np.array_equal(multi.member_weights(0)[0], multi.member_weights(1)[0])
    with pytest.raises(ValueError, match="same weights at every call"):
        kmw.replicate(fixed, 2)


def test_replicate_leaves_the_random_state_of_numpy_alone():
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    kmw.replicate(build(), 2, seed=5)
    assert np.random.rand() == expected


def test_the_plan_prints_one_row_a_layer(models):
    plan = kmw.pack(models).plan()
    assert [row["rule"] for row in plan] == ["rowwise", "weighted", "weighted"]
    assert "MultiDense" in str(plan)
