"""`keras-multiweight merge`: what it writes, what it shows, and what it refuses."""

import keras
import numpy as np
import pytest
from oracle import assert_close, randomized
from test_cli import vector_model
from typer.testing import CliRunner

from keras_multiweight import merging
from keras_multiweight_cli import commands


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three saved members, inputs, and inputs with targets."""
    folder = tmp_path_factory.mktemp("merge")
    models = [randomized(vector_model(seed=i), i) for i in range(3)]
    for i, model in enumerate(models):
        model.save(folder / f"m{i}.keras")
    vector_model(units=7).save(folder / "wider.keras")
    x = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
    np.save(folder / "x.npy", x)
    np.savez(folder / "data.npz", x=x, y=models[0].predict(x, verbose=0))
    return folder, models, x


def run(*arguments):
    return CliRunner().invoke(commands.app, ["merge", *map(str, arguments)])


def predictions(path, x):
    return keras.models.load_model(path).predict(x, verbose=0)


@pytest.mark.parametrize(
    "options, align, repair",
    [
        ((), "weights", False),
        (("--align", "none"), None, False),
        (("--align", "activations", "--repair"), "activations", True),
    ],
)
def test_merge_writes_the_model_that_the_library_gives(files, tmp_path, options, align, repair):
    folder, models, x = files
    out, options = tmp_path / "merged.keras", [*options, folder / "x.npy"] if repair else options
    result = run(out, folder / "m*.keras", *options)
    assert result.exit_code == 0 and "Merged 3 models" in result.output
    expected = merging.merge_members(models, align=align, data=x, repair=x if repair else None)
    assert_close(predictions(out, x), expected.predict(x, verbose=0), tolerance=1e-4)


def test_merge_shows_the_losses_of_members_steps_and_ensemble(files, tmp_path):
    folder, models, x = files
    data = folder / "data.npz"
    alone = run(tmp_path / "n.keras", folder / "m*.keras", "--align", "none", "--repair", data)
    assert "mse" in alone.output and "ensemble" in alone.output
    result = run(tmp_path / "m.keras", folder / "m*.keras", "--repair", data, "--data", data, "--loss", "mse")
    assert result.exit_code == 0, result.output
    y = models[0].predict(x, verbose=0)
    ensemble = np.mean([m.predict(x, verbose=0) for m in models], axis=0)
    for text, value in (("member 1", models[1].predict(x, verbose=0)), ("ensemble", ensemble)):
        line = next(line for line in result.output.splitlines() if text in line)
        assert f"{np.mean(np.square(value - y)):.3f}"[:4] in line
    for text in ("average as they are", "average of aligned members", "repaired"):
        assert text in result.output


def test_answers_of_classifiers_may_be_logits(files, tmp_path):
    """Those of members of two classes and more, whose last layer has no activation."""
    folder, models, x = files
    logits = [m.predict(x, verbose=0) for m in models]
    y = np.arange(len(x)) % logits[0].shape[-1]
    np.savez(tmp_path / "classes.npz", x=x, y=y)
    result = run(tmp_path / "m.keras", folder / "m*.keras", "--align", "none", "--data", tmp_path / "classes.npz")
    assert result.exit_code == 0, result.output
    probabilities = [np.exp(a) / np.exp(a).sum(axis=-1, keepdims=True) for a in logits]
    for text, p in (("member 1", probabilities[1]), ("ensemble", np.mean(probabilities, axis=0))):
        line = next(line for line in result.output.splitlines() if text in line)
        assert float(line.split("│")[2]) == pytest.approx(-np.log(p[np.arange(len(x)), y]).mean(), rel=1e-3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["OUT", "m*.keras", "--align", "names"], "--align must be weights"),
        (["OUT", "m*.keras", "--align", "activations"], "needs --repair"),
        (["OUT", "m0.keras"], "at least two members"),
        (["OUT", "m0.keras", "wider.keras"], "equal configs"),
        (["OUT", "m*.keras", "--data", "x.npy"], "targets as 'y'"),
        (["m0.keras", "m*.keras"], "OUT must be a new file"),
    ],
)
def test_merge_refuses_what_does_not_fit_and_writes_nothing(files, tmp_path, arguments, message):
    folder, out = files[0], tmp_path / "merged.keras"
    before = sorted(folder.iterdir())
    result = run(*(out if a == "OUT" else folder / a if "." in a else a for a in arguments))
    assert result.exit_code != 0 and message in " ".join(result.output.split())
    assert not out.exists() and sorted(folder.iterdir()) == before
