"""Merging of trained members, by the experiments of `benchmarks/merging.py`: what its tables say is held here."""

import pathlib
import runpy

import numpy as np
import pytest

from keras_multiweight import merging

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench():
    return runpy.run_path(str(pathlib.Path(__file__).parents[1] / "benchmarks" / "merging.py"))


@pytest.mark.parametrize("name", ["small_mlp", "cnn", "residual", "lstm", "transformer"])
def test_permutation_of_a_trained_model_is_recovered(bench, name):
    model, twin = bench["trained_by_adam"](bench[name], 0, 10), bench[name]()
    spec = merging.PermutationSpec.from_model(model)
    assert spec.validate() <= 1e-5
    for seed in range(20):
        twin.set_weights(spec.permute(model.get_weights(), spec.random(seed)))
        found = merging.weight_matching([model, twin], spec=spec, seed=seed)
        assert all(np.array_equal(a[0], a[1]) for a in found.arrays()) and found.sweeps <= 4


def test_matching_removes_the_barrier_between_members_from_different_seeds(bench):
    pair, (_, x, _, y) = [bench["trained"](seed, 512, 3, 0.1, 0.05, 60) for seed in (1, 2)], bench["digits"]()
    naive, matched = (merging.loss_barrier(*models, (x, y), loss=bench["LOSS"]).barrier
                      for models in (pair, merging.weight_matching(pair).models()))  # fmt: skip
    assert matched < 0.05 * naive


def test_repair_lifts_the_average_of_deep_narrow_networks(bench):
    pair, x = [bench["trained"](seed, 128, 10, 0.05, 0.02, 60) for seed in (1, 2)], bench["digits"]()[0]
    average, repaired = (bench["accuracy"](merging.merge_members(pair, repair=data)) for data in (None, x))
    assert repaired > average + 0.05


def test_five_members_merge_near_their_mean(bench):
    models = [bench["trained"](seed, 512, 2, 0.1, 0.05, 40) for seed in range(5)]
    mean = np.mean([bench["accuracy"](model) for model in models])
    assert bench["accuracy"](merging.merge_members(models)) >= 0.98 * mean


def test_repair_lifts_the_average_of_transformers(bench):
    """Matched they are near their members here; as they are, not."""
    pair, x = [bench["trained_by_adam"](bench["transformer"], seed, 30, 0.2) for seed in (1, 2)], bench["digits"]()[0]
    average, repaired = (bench["accuracy"](merging.merge_members(pair, align=None, repair=data)) for data in (None, x))
    assert repaired > average + 0.05


def test_members_averaged_while_training_beat_members_alone(bench, capsys):
    bench["averaging"](epochs=30)
    cells = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    found = {name.strip(): float(mean) for name, mean, _ in cells if mean.strip().replace(".", "").isdigit()}
    assert found["averaged each epoch, parts drawn anew"] > found["alone, parts kept"]
    assert found["averaged each epoch, parts drawn anew"] > found["one network on all rows"] - 0.01
