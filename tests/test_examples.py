"""The scripts in `examples/` run, and their numbers are what they claim."""

import os
import pathlib
import re
import runpy
import subprocess
import sys

import keras
import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "examples"


def run(name, **sizes):
    return runpy.run_path(str(FOLDER / f"{name}.py"))["main"](**sizes)


def test_growing_networks_answer_as_they_do_alone():
    assert run("growing_networks", num_networks=3, epochs=1) < 1e-5


def test_sparse_subnetworks_answer_exactly():
    expected = [[[13, 68], [25, 41]], [[30, 45], [78, 27]]]
    np.testing.assert_array_equal(run("sparse_subnetworks"), expected)


def test_sparse_subnetworks_take_any_number_of_weight_sets():
    weight_sets = np.arange(5 * 3 * 2).reshape(5, 3, 2)
    samples = np.array([[1, 2, 3], [4, 5, 6]])
    expected = weight_sets[:, None, :, 0] * samples + weight_sets[:, None, :, 1]
    np.testing.assert_array_equal(run("sparse_subnetworks", samples=samples, weight_sets=weight_sets), expected)


def test_average_of_bagged_networks_is_better_than_their_mean():
    mean_member, ensemble, out_of_bag = run("bagging_fit", num_members=8, epochs=20, side_by_side=False)
    assert ensemble > mean_member
    assert abs(out_of_bag - ensemble) < 0.3  # a standard error of R2 on 133 rows is 0.1


def test_bagged_classifiers_score_out_of_bag_as_on_new_rows():
    scores, _ = run("breast_cancer_bagging", num_members=8, epochs=4, loop_members=0)
    assert scores["ensemble"] > scores["mean member"] - 0.01  # so few members, hardly trained; a row is 0.006
    assert abs(scores["out of bag"] - scores["ensemble"]) < 0.05  # a standard error on 171 rows is 0.015


def test_average_of_cnns_is_at_least_as_good_as_their_mean():
    mean_member, ensemble = run("digits_cnn_ensemble", num_members=3, epochs=2)
    assert ensemble >= mean_member


@pytest.mark.filterwarnings("ignore:.*has no rule of its own")
def test_own_layers_and_models_answer_as_they_do_alone():
    assert max(run("own_layers", num_members=3, repeats=1).values()) < 1e-5


def test_matched_networks_merge_better_than_networks_as_they_are():
    found, barriers = run("merge_two_networks", width=64, epochs=12)
    assert found["B: matched by activations, repaired"] > found["average as they are"] + 0.05
    assert found["A: averaged while training"] > 0.9
    assert barriers["by activations"] < 0.5 * barriers["not at all"]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="keras.distribution spreads models on JAX only")
def test_members_that_are_averaged_spread_over_devices():
    """In a process of its own: devices are counted when JAX starts."""
    script = "import average_across_devices as e; count, score = e.main(epochs=4); assert count == 4 and score > 0.85"
    path = os.pathsep.join([str(FOLDER), str(FOLDER.parent)])
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.slow
def test_pictures_are_small_and_come_out_equal_from_equal_seeds(tmp_path):
    pytest.importorskip("tensorboard")
    sizes = {"num_members": 3, "epochs": 1}
    paths = run("ensemble_pictures", folder=tmp_path / "a", log_dir=tmp_path / "logs", **sizes)
    assert len(paths) == 6 and all(path.stat().st_size < 60_000 for path in paths)
    assert all((FOLDER.parent / "docs" / "pictures" / path.name).exists() for path in paths)
    again = run("ensemble_pictures", folder=tmp_path / "b", **sizes)
    assert [a.read_bytes() for a in paths] == [b.read_bytes() for b in again]


@pytest.mark.slow
def test_storage_node_is_tuned_while_it_runs():
    found = run("balance_storage", budget=240)
    assert found["last tenth"] > 1.1 * found["first tenth"]
    assert found["recommended"] > 1.1 * found["equal weights"]


@pytest.mark.slow
def test_parallel_evaluations_reach_an_optimum():
    assert run("parallel_evaluations", budget=300, progress=None) < 0.13  # the false minimum is at 0.119


@pytest.mark.parametrize("path", FOLDER.glob("*.py"), ids=lambda path: path.stem)
def test_example_asks_a_question_in_its_first_line(path):
    assert re.search(r"\?$", path.read_text().splitlines()[0].rstrip('"'))
