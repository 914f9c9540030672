"""Pictures show the numbers that they are given."""

import pathlib

import keras
import matplotlib
import numpy as np
import oracle
import pytest
from keras import layers as k

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import keras_multiweight as kmw
from keras_multiweight import bagging, plots


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


def test_learning_curves_are_the_history_their_mean_and_a_band(rng):
    history = {"loss": rng.random((5, 3)), "val_loss": rng.random((5, 3)), "mae": rng.random((5, 3))}
    ax = plots.learning_curves(history)
    drawn = [line.get_ydata() for line in ax.lines]
    np.testing.assert_allclose(drawn[0], history["loss"].mean(axis=1))
    np.testing.assert_allclose(np.array(drawn[1:4]).T, history["loss"])
    assert len(drawn) == 8 and len(ax.collections) == 2
    own = plt.subplots()[1]
    assert plots.learning_curves(history, ["mae"], ax=own) is own
    with pytest.raises(ValueError, match=r"names must be among \['loss', 'mae', 'val_loss'\]"):
        plots.learning_curves(history, ["acc"])


def test_predictions_are_sorted_with_their_band(rng):
    x, answers = rng.random((20, 1)), rng.random((20, 4, 1))
    ax = plots.predictions(x, answers, quantiles=(0.1, 0.9), data=(x, answers[:, 0]))
    order = np.argsort(x[:, 0])
    np.testing.assert_allclose(ax.lines[0].get_xdata(), x[order, 0])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), answers[order, :, 0].mean(axis=1))
    corners = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert corners.max() == pytest.approx(np.quantile(answers[..., 0], 0.9, axis=1).max())
    assert len(ax.collections[1].get_offsets()) == 20
    with pytest.raises(ValueError, match=r"x must be numbers of 1 axes.*Received: shape \(20, 2\)"):
        plots.predictions(rng.random((20, 2)), answers)
    with pytest.raises(ValueError, match=r"as many rows\. Received: 3 and 20"):
        plots.predictions(x[:3], answers)


def test_a_map_shows_the_spread_of_the_members():
    multi = kmw.pack(oracle.members(lambda: keras.Sequential([keras.Input((2,)), k.Dense(3, "softmax")])), verify=False)
    ax = plots.prediction_map(multi, (-1, -2), (1, 2), steps=6, output=1, data=(np.zeros((2, 2)), [0, 1]))
    sides = np.linspace(-1, 1, 6), np.linspace(-2, 2, 6)
    grid = np.array([[(a, b) for a in sides[0]] for b in sides[1]], "float32").reshape(-1, 2)
    expected = multi.predict(grid)[:, :, 1].std(axis=1)
    np.testing.assert_allclose(np.ravel(ax.collections[0].get_array()), expected, rtol=1e-5)
    plots.prediction_map(multi, (-1, -2), (1, 2), "mutual_information", kind="classes", steps=6)
    with pytest.raises(ValueError, match="measure must be one of an Uncertainty of 'numbers'"):
        plots.prediction_map(multi, (-1, -2), (1, 2), "mutual_information", steps=6)


def test_a_reliability_diagram_has_the_accuracy_of_each_bin(rng):
    p, y = rng.dirichlet(np.ones(3), 200), rng.integers(0, 3, 200)
    ax = plots.reliability_diagram(p, y, bins=5)
    found = bagging.reliability(p, y, 5)
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], np.nan_to_num(found.accuracy))


def test_a_matrix_shows_the_disagreement(rng):
    report = bagging.diversity(rng.random((30, 4, 1)), rng.random((30, 1)))
    np.testing.assert_array_equal(plots.disagreement_matrix(report).images[0].get_array(), report.disagreement)


def test_the_score_by_members_ends_at_that_of_all(rng):
    y = rng.random(50)
    answers = y[:, None] + rng.normal(size=(50, 6))
    ax = plots.score_by_members(answers, y, "mse")
    drawn = ax.lines[0].get_ydata()
    assert drawn[-1] == pytest.approx(np.mean((answers.mean(axis=1) - y) ** 2), rel=1e-5) and drawn[0] > drawn[-1]
    assert ax.get_ylabel() == "mse"


@pytest.mark.parametrize(("every", "epochs"), [(2, [1, 3, 4]), (None, [4])])
def test_tensorboard_shows_the_plots_of_members_in_training(tmp_path, every, epochs):
    files = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    x = np.zeros((8, 2), "float32")
    multi = kmw.replicate(lambda: keras.Sequential([keras.Input((2,)), k.Dense(1)]), 2, seed=0)
    multi.compile("sgd", "mse")
    seen = []
    board = plots.TensorBoardPlots(tmp_path, {"own": lambda multi, ax: seen.append(multi.predict(x)[0, :, 0])}, every)
    multi.fit(x, np.ones((8, 1)), epochs=5, verbose=0, callbacks=[board])
    assert not plt.get_fignums()
    biases = [multi.member_weights(i)[1][0] for i in range(2)]
    np.testing.assert_allclose(seen[-1], biases, rtol=1e-6)  # the weights as they are, which the answers to zeros are
    (path,) = (tmp_path / "plots").iterdir()
    events = [event for event in files.EventFileLoader(str(path)).Load() if event.summary.value]
    names = [event.summary.value[0].tag for event in events]
    assert names == ["learning curves", "own"] * len(epochs)
    assert [event.step for event in events[::2]] == epochs


def test_every_plot_is_in_the_pictures():
    script = (pathlib.Path(__file__).parents[1] / "examples" / "ensemble_pictures.py").read_text()
    assert not [name for name in plots.__all__ if f"plots.{name}(" not in script]
