"""The estimators are scikit-learn's, and their networks are what Keras trains."""

import joblib
import keras
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_classification, make_regression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import keras_multiweight as kmw
from keras_multiweight.sklearn import MLP, MultiBaggingClassifier, MultiBaggingRegressor

FAST = {
    "build": MLP((8,)),
    "n_estimators": 3,
    "learning_rate": 0.05,
    "batch_size": 16,
    "random_state": 0,
    "compile_args": {"steps_per_execution": 1},
}
EXPECTED_TO_FAIL = {
    "check_sample_weight_equivalence_on_dense_data": "a repeated row is drawn as two, a weighted one as one, as in sklearn",
}
if keras.backend.backend() == "jax":  # the check allows 1e-7
    EXPECTED_TO_FAIL["check_methods_sample_order_invariance"] = "a row's float32 sums depend on its place in the batch"


@pytest.mark.slow
@parametrize_with_checks(
    [MultiBaggingClassifier(**FAST, epochs=30), MultiBaggingRegressor(**FAST, epochs=60)],
    expected_failed_checks=lambda estimator: EXPECTED_TO_FAIL,
)
@pytest.mark.filterwarnings("ignore")
def test_estimators_keep_the_conventions_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def classes():
    x, y = make_classification(120, 5, n_informative=4, n_redundant=0, n_classes=3, random_state=0)
    return x, np.array(["low", "mid", "high"])[y]


@pytest.fixture(scope="module")
def fitted(classes):
    return MultiBaggingClassifier(**FAST, epochs=20, oob_score=True).fit(*classes)


def test_probabilities_are_the_mean_of_the_networks(fitted, classes):
    x, y = classes
    answers = np.stack([m.predict(x.astype("float32"), verbose=0) for m in fitted.estimators_])
    np.testing.assert_allclose(fitted.predict_proba(x), answers.mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(fitted.predict(x), fitted.classes_[answers.mean(axis=0).argmax(axis=1)])
    assert fitted.score(x, y) > 0.7 and len(fitted.estimators_samples_) == 3


def test_out_of_bag_score_is_that_of_the_loop(fitted, classes):
    x, y = classes
    answers = np.stack([m.predict(x.astype("float32"), verbose=0) for m in fitted.estimators_], axis=1)
    right, seen = 0, 0
    for r, row in enumerate(answers):
        left_out = [a for a, rows in zip(row, fitted.estimators_samples_) if r not in rows]
        assert np.isnan(fitted.oob_decision_function_[r]).all() == (not left_out)
        if left_out:
            seen += 1
            right += fitted.classes_[np.mean(left_out, axis=0).argmax()] == y[r]
    assert fitted.oob_score_ == pytest.approx(right / seen)


def test_networks_train_as_keras_trains_them_on_weighted_rows(classes):
    """Without shuffling, a network of the estimator is what a Keras model is after `fit` with its weights."""
    x, y = classes
    model = MultiBaggingClassifier(**FAST, epochs=2, fit_args={"shuffle": False}).fit(x, y)
    starts = kmw.replicate(model._network(5), 3, seed=int(model._seeds[1]))
    alone = starts.member(1)
    alone.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    codes, weights = np.searchsorted(model.classes_, y), model.bootstrap_.weights[:, 1]
    alone.fit(x.astype("float32"), codes, sample_weight=weights, batch_size=16, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(alone.get_weights(), model.estimators_[1].get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_estimators_are_dumped_and_loaded(fitted, classes, tmp_path):
    joblib.dump(fitted, tmp_path / "model.joblib")
    again = joblib.load(tmp_path / "model.joblib")
    np.testing.assert_array_equal(again.predict_proba(classes[0]), fitted.predict_proba(classes[0]))
    assert again.oob_score_ == fitted.oob_score_


@pytest.mark.slow
def test_a_warm_start_ends_where_one_fit_of_all_ends(classes):
    x, y = classes
    whole = MultiBaggingClassifier(**{**FAST, "n_estimators": 4}, epochs=3).fit(x, y)
    warm = MultiBaggingClassifier(**{**FAST, "n_estimators": 3}, epochs=3, warm_start=True).fit(x, y)
    warm.set_params(n_estimators=4).fit(x, y)
    for a, b in zip(whole.multi_.get_weights(), warm.multi_.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    with pytest.warns(UserWarning, match="There are n_estimators networks already"):
        warm.fit(x, y)
    with pytest.raises(ValueError, match=r"at least the 4 networks that there are\. Received: n_estimators=2"):
        warm.set_params(n_estimators=2).fit(x, y)


@pytest.mark.slow
def test_parameters_are_searched_in_a_pipeline(classes):
    x, y = classes
    pipeline = make_pipeline(StandardScaler(), MultiBaggingClassifier(**{**FAST, "n_estimators": 2}, epochs=2))
    grid = {"multibaggingclassifier__build__hidden_layer_sizes": [(4,), (8, 8)]}
    search = GridSearchCV(pipeline, grid, cv=2, refit=False).fit(x, y)
    assert search.best_params_ in [{next(iter(grid)): sizes} for sizes in [(4,), (8, 8)]]
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert clone(pipeline)[-1].get_params()["build__activation"] == "relu"


def one_probability(num_features, num_outputs):
    return keras.Sequential([keras.Input((num_features,)), keras.layers.Dense(1, activation="sigmoid")])


def test_clones_train_with_what_the_first_compiled(classes, monkeypatch):
    """Each clone ends, bit for bit, where an estimator of its own ends; other settings are compiled anew."""
    x, y = classes
    compiled = []
    compile_model = kmw.MultiModel.compile
    monkeypatch.setattr(kmw.MultiModel, "compile", lambda m, *a, **k: compiled.append(m) or compile_model(m, *a, **k))
    first = MultiBaggingClassifier(**FAST, epochs=2).fit(x, y)
    seeds = [0, 1, 0]
    found = [clone(first).set_params(random_state=seed).fit(x, y) for seed in seeds]
    assert len(compiled) == 1
    alone = [MultiBaggingClassifier(**{**FAST, "random_state": seed}, epochs=2).fit(x, y) for seed in seeds[:2]]
    assert len(compiled) == 3
    for a, b in zip([first, *found], [alone[seed] for seed in [0, *seeds]]):
        for own, other in zip(a.multi_.get_weights(), b.multi_.get_weights(), strict=True):
            np.testing.assert_array_equal(own, other)
        np.testing.assert_array_equal(a.member_history_["loss"], b.member_history_["loss"])
        assert a.multi_.member_seeds == b.multi_.member_seeds
    clone(first).set_params(learning_rate=0.1).fit(x, y)
    assert len(compiled) == 4
    clone(first).set_params(fit_args={"callbacks": [keras.callbacks.TerminateOnNaN()]}).fit(x, y)
    assert len(compiled) == 5


def test_one_probability_of_two_classes_is_enough(classes):
    x, y = classes[0], classes[0][:, 0] > 0
    options = {**FAST, "build": one_probability, "learning_rate": 0.1, "epochs": 10}
    model = MultiBaggingClassifier(**options).fit(x, y)
    assert model.score(x, y) > 0.9
    np.testing.assert_allclose(model.predict_proba(x).sum(axis=1), 1)
    with pytest.raises(ValueError, match=r"probabilities of 3 classes\. Received: an output of 1"):
        MultiBaggingClassifier(one_probability, 2).fit(*classes)


def test_regression_of_several_targets_from_features_drawn():
    x, y = make_regression(80, 4, n_targets=2, random_state=0)
    y = StandardScaler().fit_transform(y)
    model = MultiBaggingRegressor(**FAST, max_features=3, epochs=30, oob_score=True).fit(x, y)
    assert model.predict(x).shape == (80, 2) and model.score(x, y) > 0.5 and np.isfinite(model.oob_score_)
    pairs = zip(model.estimators_, model.estimators_features_)
    answers = np.stack([m.predict(x[:, drawn].astype("float32"), verbose=0) for m, drawn in pairs])
    np.testing.assert_allclose(model.predict(x), answers.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_estimators": 0}, "n_estimators must be an int of at least 1"),
        ({"batch_size": 32.0}, "batch_size must be an int of at least 1. Received: batch_size=32.0"),
        ({"max_samples": -0.5}, "max_samples as a float must be a positive fraction"),
        ({"bootstrap": False, "oob_score": True}, "oob_score needs rows that are left out"),
        ({"oob_score": "roc_auc"}, "oob_score must be a bool or a function"),
    ],
)
def test_wrong_parameters_are_named(classes, options, message):
    with pytest.raises(ValueError, match=message):
        MultiBaggingClassifier(**{**FAST, **options}).fit(*classes)


def test_one_hidden_layer_may_be_an_int():
    assert [layer.units for layer in MLP(8)(3, 1).layers[1:]] == [8, 1]


def test_targets_that_are_nan_are_refused():
    with pytest.raises(ValueError, match="y contains NaN"):
        MultiBaggingRegressor(**FAST).fit(np.zeros((3, 2)), [0.0, np.nan, 1.0])


def test_networks_that_give_logits_are_refused(classes):
    X, y = classes
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    build = lambda features, outputs: keras.Sequential([keras.Input((features,)), keras.layers.Dense(1)])  # noqa: E731
    model = kmw.sklearn.MultiBaggingClassifier(build, 2, epochs=1, loss=loss, random_state=0).fit(X, y == y[0])
    with pytest.raises(ValueError, match=r"must give probabilities.*Received: answers from -"):
        model.predict(X)
