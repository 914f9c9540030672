"""Models of different architectures in one model, and the report when they are not wanted."""

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k

import keras_multiweight as kmw
from keras_multiweight.configs import comparable, differences

ROWS = np.random.default_rng(0).normal(size=(7, 6)).astype("float32")


def network(width=4, depth=1, activation="relu", seed=0, inputs=6, outputs=2):
    """A small model; `seed` is of its weights."""
    layers = [k.Dense(width, activation=activation) for _ in range(depth)]
    model = keras.Sequential([keras.Input((inputs,), name="features"), *layers, k.Dense(outputs, name="answer")])
    return oracle.randomized(model, seed)


def mixed_models():
    kinds = [{}, {"width": 5}, {}, {"depth": 2}, {"width": 5}, {"activation": "tanh"}, {}]
    return [network(**kind, seed=seed) for seed, kind in enumerate(kinds)]


def two_headed(width, seed):
    inputs = {"a": keras.Input((6,), name="a"), "b": keras.Input((3,), name="b")}
    x = k.Dense(width)(k.Concatenate()([inputs["a"], inputs["b"]]))
    model = keras.Model(inputs, {"score": k.Dense(1, name="score")(x), "class": k.Dense(3, name="class")(x)})
    return oracle.randomized(model, seed)


def test_a_mixed_model_answers_in_the_order_given():
    models = mixed_models()
    multi = kmw.pack(models, group=True)
    assert multi.group_members == [[0, 2, 6], [1, 4], [3], [5]] and multi.num_members == 7
    expected = oracle.stacked_predictions(models, ROWS, 3)[0]
    oracle.assert_close(multi.predict(ROWS, batch_size=3), expected)
    oracle.assert_close(multi.average().predict(ROWS, verbose=0), expected.mean(1))


def test_members_of_a_mixed_model_come_out_bit_equal():
    models = mixed_models()
    multi = kmw.pack(models, group=True)
    for i, (model, member) in enumerate(zip(models, multi.unpack(), strict=True)):
        assert not list(differences(*(comparable(keras.saving.serialize_keras_object(m)) for m in (model, member))))
        for before, after, alone in zip(model.get_weights(), member.get_weights(), multi.member_weights(i), strict=True):
            np.testing.assert_array_equal(before, after)
            np.testing.assert_array_equal(before, alone)
    assert multi.member_names == [f"'{model.name}'" for model in models]


def test_a_mixed_model_is_saved_and_loaded(tmp_path):
    multi = kmw.pack(mixed_models(), group=True)
    multi.save(tmp_path / "mixed.keras")
    loaded = keras.models.load_model(tmp_path / "mixed.keras")
    np.testing.assert_array_equal(multi.predict(ROWS), loaded.predict(ROWS))
    assert loaded.member_names == multi.member_names and list(loaded.plan()) == list(multi.plan())


def test_several_inputs_and_outputs_keep_their_structure():
    models = [two_headed(width, seed) for seed, width in enumerate((4, 5, 4))]
    multi = kmw.pack(models, group=True)
    x = {"a": ROWS, "b": ROWS[:, :3]}
    received = multi.predict(x)
    for i, model in enumerate(models):
        expected = model.predict(x, verbose=0)
        assert sorted(received) == sorted(expected)
        for name in expected:
            oracle.assert_close(received[name][:, i], expected[name])


def test_files_of_several_architectures_are_packed(tmp_path):
    models = mixed_models()
    for i, model in enumerate(models):
        model.save(tmp_path / f"{i}.keras")
    multi = kmw.pack(str(tmp_path / "*.keras"), group=True)
    oracle.assert_close(multi.predict(ROWS), oracle.stacked_predictions(models, ROWS, 7)[0])
    assert [name.split("/")[-1] for name in multi.member_names] == [f"{i}.keras" for i in range(7)]


def test_one_architecture_makes_an_ordinary_pack():
    multi = kmw.pack([network(seed=0), network(seed=1)], group=True)
    assert type(multi) is kmw.MultiModel


def test_members_are_counted_from_the_end_and_no_further():
    models = mixed_models()
    multi = kmw.pack(models, group=True)
    np.testing.assert_array_equal(multi.member_weights(-2)[0], models[5].get_weights()[0])
    with pytest.raises(IndexError, match=r"from 0 to 6\. Received: i=7"):
        multi.member(7)


def test_other_inputs_or_outputs_are_refused():
    with pytest.raises(ValueError, match=r"same inputs.*inputs .*6.* in member 0 and .*5.* in member 1"):
        kmw.pack([network(), network(inputs=5)], group=True)
    with pytest.raises(ValueError, match=r"same shapes.*outputs .*2.* in member 0 and .*3.* in member 1"):
        kmw.pack([network(), network(outputs=3)], group=True)


def test_a_mixed_model_is_not_trained_as_a_whole():
    with pytest.raises(ValueError, match=r"multi.groups\[k\].compile"):
        kmw.pack(mixed_models(), group=True).compile("sgd", "mse")


def test_the_error_tells_every_difference_of_every_member_and_the_groups():
    with pytest.raises(kmw.IncompatibleModelsError, match="group=True") as caught:
        kmw.pack(mixed_models())
    error = caught.value
    assert {difference.member for difference in error.differences} == {1, 3, 4, 5}
    assert error.groups == [[0, 2, 6], [1, 4], [3], [5]]
    assert "4 architectures, of the members 0, 2, 6; 1, 4; 3; 5." in str(error)


def test_a_long_report_is_cut_but_whole_as_data():
    with pytest.raises(kmw.IncompatibleModelsError, match=r"and \d+ more in .differences") as caught:
        kmw.pack([network(), *(network(width=5 + i) for i in range(12))])
    assert len(caught.value.differences) >= 12
