"""The command line on small models: every command, every refusal, and that no half-written file is left."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers as k
from typer.testing import CliRunner

import keras_multiweight as kmw
from keras_multiweight_cli import commands, demo
from keras_multiweight_cli.start import choose_backend

MEMBERS, ROWS = 3, 5


def vector_model(units=4, seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((6,), name="x"), k.Dense(5, activation="tanh"), k.Dense(units)], name="net")


def two_sided_model(seed=0):
    """Two inputs, one of them of integers, and two outputs."""
    keras.utils.set_random_seed(seed)
    ids, x = keras.Input((3,), dtype="int32", name="ids"), keras.Input((2,), name="x")
    h = k.Concatenate()([k.Flatten()(k.Embedding(7, 2)(ids)), x])
    outputs = [k.Dense(1, name="mean")(h), k.Dense(2, name="spread")(h)]
    return keras.Model({"ids": ids, "x": x}, outputs, name="two_sided")


def save_all(models, folder):
    folder.mkdir(parents=True)
    paths = [folder / f"m{i}.keras" for i in range(len(models))]
    for model, path in zip(models, paths):
        model.save(path)
    return [str(path) for path in paths]


class Files:
    """Saved members, their pack, and models that are no members. Read only."""

    def __init__(self, folder):
        self.models = [vector_model(seed=i) for i in range(MEMBERS)]
        self.paths = save_all(self.models, folder / "members")
        self.packed = str(folder / "packed.keras")
        kmw.pack(self.paths).save(self.packed)
        self.two_sided_models = [two_sided_model(seed=i) for i in range(2)]
        self.two_sided = str(folder / "two_sided.keras")
        kmw.pack(self.two_sided_models).save(self.two_sided)
        self.wider = str(folder / "wider.keras")
        vector_model(units=7).save(self.wider)
        self.broken = str(folder / "broken.keras")
        with open(self.broken, "wb") as file:
            file.write(b"PK\x03\x04 and no more")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("cli"))


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(ROWS, 6)).astype("float32")


def run(*args, code=0):
    """Run a command; what it printed, with line breaks as spaces."""
    result = CliRunner().invoke(commands.app, [str(a) for a in args], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def fails(*args, match, code=1):
    """Run a command that must fail with a message; no temporary files may be left beside it."""
    output = run(*args, code=code)
    assert "Traceback" not in output
    assert match in output


def contents(folder):
    return sorted(path.name for path in folder.iterdir())


def stacked(models, x):
    return np.stack([np.asarray(model.predict(x, verbose=0)) for model in models], axis=1)


# ---- start ----


def start_alone(option):
    """Run the console script as its launcher does, in a process of its own; what it prints."""
    code = f"import sys, keras_multiweight_cli as cli; sys.argv[1:] = [{option!r}]\ntry: cli.main()\n"
    code += "finally: print('keras imported:', 'keras' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    assert "keras imported: False" in done.stdout, done.stderr
    return done.stdout


def test_help_does_not_import_keras():
    output = start_alone("--help")
    assert all(name in output for name in ("demo", "pack", "unpack", "inspect", "predict", "verify"))


def test_version_is_shown_without_keras():
    assert start_alone("--version").splitlines()[0] == f"keras-multiweight {kmw.__version__}"


def test_wrong_usage_ends_with_code_2(files, x, tmp_path):
    run("pack", tmp_path / "out.keras", code=2)
    run("unpack", files.packed, code=2)
    run("no-such-command", code=2)
    run("predict", files.packed, "x.npy", "--batch-size", "0", code=2)
    run("demo", "--members", "1", code=2)


@pytest.fixture
def fresh_start(monkeypatch, tmp_path):
    """As if Keras was not imported yet: returns a function that says which backends are installed and configured."""

    def start(installed, configured=None, asked=None):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in installed else None)
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        monkeypatch.setenv("KERAS_BACKEND", asked or "")  # so that what the start sets is taken back, where none was set too
        if not asked:
            monkeypatch.delenv("KERAS_BACKEND")
        if configured:
            (tmp_path / "keras.json").write_text(f'{{"backend": "{configured}"}}')
        choose_backend()
        return os.environ.get("KERAS_BACKEND")

    return start


def test_backend_of_keras_settings_is_kept_where_it_is_installed(fresh_start):
    assert fresh_start(["tensorflow", "torch"], configured="torch") is None


def test_first_installed_backend_is_taken_where_that_of_keras_settings_is_not(fresh_start, capsys):
    assert fresh_start(["jax", "torch"]) == "jax"
    assert "tensorflow, which Keras is set to, is not installed" in " ".join(capsys.readouterr().err.split())


def test_backend_that_the_user_asked_for_is_never_replaced(fresh_start):
    with pytest.raises(ImportError, match=r"'torch' \(KERAS_BACKEND\).*there is jax\..*keras-multiweight\[torch\]"):
        fresh_start(["jax"], asked="torch")


def test_no_backend_at_all_says_how_to_install_one(fresh_start):
    with pytest.raises(ImportError, match=r"there is none\. Install one.*pip install"):
        fresh_start([])


def test_unreadable_keras_settings_count_as_none(fresh_start, tmp_path):
    (tmp_path / "keras.json").write_text("{")
    assert fresh_start(["tensorflow"]) is None


def test_traceback_is_shown_when_asked_for(files):
    for options, env in ((["--traceback"], {}), ([], {"KERAS_MULTIWEIGHT_TRACEBACK": "1"})):
        result = CliRunner().invoke(commands.app, [*options, "inspect", "nowhere.keras"], env=env)
        assert isinstance(result.exception, FileNotFoundError)


def test_unexpected_error_names_its_type_and_the_way_to_a_traceback(files, monkeypatch):
    monkeypatch.setattr(commands, "load", lambda path: 1 / 0)
    fails("inspect", files.packed, match="ZeroDivisionError: division by zero Run `keras-multiweight --traceback")


# ---- pack and unpack ----


def test_packed_file_predicts_as_its_members(files, x, tmp_path):
    out = tmp_path / "out.keras"
    assert "Packed 3 models" in run("pack", out, *files.paths)
    assert contents(tmp_path) == ["out.keras"]
    multi = keras.models.load_model(out, compile=False)
    np.testing.assert_allclose(multi.predict(x), stacked(files.models, x), rtol=1e-5, atol=1e-6)


def test_pack_takes_patterns_and_folders(files, tmp_path):
    folder = os.path.dirname(files.paths[0])
    for i, given in enumerate((folder, f"{folder}/m*.keras")):
        run("pack", tmp_path / f"{i}.keras", given, "--no-verify")
        assert keras.models.load_model(tmp_path / f"{i}.keras", compile=False).member_names == files.paths


def test_pack_replaces_a_file_only_when_told(files, tmp_path):
    out = tmp_path / "out.keras"
    out.write_text("mine")
    fails("pack", out, *files.paths, match="which exists. Pass --overwrite")
    assert out.read_text() == "mine"
    run("pack", out, *files.paths, "--overwrite")
    assert keras.models.load_model(out, compile=False).num_members == MEMBERS


def test_pack_checks_its_output_before_loading(files, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "library", lambda: pytest.fail("loaded"))
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "file").touch()
    fails("pack", tmp_path / "out.h5", *files.paths, match="OUT must end in .keras. Received:")
    fails("pack", tmp_path / "folder.keras", *files.paths, match="OUT must be a file. Received:")
    fails("pack", tmp_path / "no" / "out.keras", *files.paths, match="must be in a folder that can be written")
    fails("pack", tmp_path / "file" / "out.keras", *files.paths, match="must be in a folder that can be written")
    fails("pack", files.paths[0], *files.paths, "--overwrite", match="OUT must not be one of the models")
    assert contents(tmp_path) == ["file", "folder.keras"]


def test_pack_says_which_models_are_missing_or_differ_or_are_broken(files, tmp_path):
    out = tmp_path / "out.keras"
    fails("pack", out, "nowhere.keras", match="must be a file that exists. Received: 'nowhere.keras'")
    fails("pack", out, tmp_path, match="must hold at least one saved model")
    fails("pack", out, f"{tmp_path}/*.keras", match="must hold at least one saved model")
    fails("pack", out, files.paths[0], files.wider, match="units=4 in member 0 and units=7 in member 1")
    fails("pack", out, files.broken, match="broken.keras', which cannot be read")
    assert contents(tmp_path) == []


def test_failed_save_leaves_the_old_file_and_nothing_else(files, tmp_path, monkeypatch):
    def half(self, path):
        path.write_text("half")
        raise OSError("No space left on device")

    out = tmp_path / "out.keras"
    out.write_text("mine")
    monkeypatch.setattr(kmw.MultiModel, "save", half)
    fails("pack", out, *files.paths, "--overwrite", match="No space left on device")
    assert contents(tmp_path) == ["out.keras"] and out.read_text() == "mine"


def test_unpacked_members_are_the_models_that_were_packed(files, tmp_path):
    run("unpack", files.packed, tmp_path / "a" / "b")
    assert contents(tmp_path / "a" / "b") == ["member_000.keras", "member_001.keras", "member_002.keras"]
    for i, model in enumerate(files.models):
        member = keras.models.load_model(tmp_path / "a" / "b" / f"member_{i:03}.keras")
        assert type(member) is keras.Sequential
        assert all(np.array_equal(a, b) for a, b in zip(member.get_weights(), model.get_weights(), strict=True))


def test_unpack_replaces_all_older_members_and_only_when_told(files, tmp_path):
    for name in ("member_001.keras", "member_999.keras", "member_best.keras", "notes.txt"):
        (tmp_path / name).touch()
    fails("unpack", files.packed, tmp_path, match="which has 2, such as 'member_001.keras'. Pass --overwrite")
    run("unpack", files.packed, tmp_path, "--overwrite")
    members = ["member_000.keras", "member_001.keras", "member_002.keras"]
    assert contents(tmp_path) == [*members, "member_best.keras", "notes.txt"]


def test_failed_unpack_leaves_everything_as_it_was(files, tmp_path, monkeypatch):
    save, old = keras.Sequential.save, tmp_path / "old" / "member_000.keras"
    old.parent.mkdir()
    old.write_text("mine")

    def second_fails(self, path):
        if path.name == "member_001.keras":
            raise OSError("No space left on device")
        save(self, path)

    monkeypatch.setattr(keras.Sequential, "save", second_fails)
    fails("unpack", files.packed, tmp_path / "new", match="No space left")
    fails("unpack", files.packed, old.parent, "--overwrite", match="No space left")
    assert contents(tmp_path) == ["old"] and contents(old.parent) == [old.name] and old.read_text() == "mine"


def test_unpack_refuses_what_is_not_packed(files, tmp_path):
    (tmp_path / "file").touch()
    fails("unpack", files.paths[0], tmp_path / "new", match="must be a packed model")
    fails("unpack", files.broken, tmp_path / "new", match="must be a model that Keras saved")
    fails("unpack", "nowhere.keras", tmp_path / "new", match="must be a file that exists")
    fails("unpack", tmp_path / "file", tmp_path / "new", match="A saved model ends in .keras")
    fails("unpack", files.packed, tmp_path / "file", match="DIR must be a folder")
    assert contents(tmp_path) == ["file"]


# ---- other people's files ----


def test_weights_pack_with_a_template_and_are_verified(files, tmp_path):
    for i, model in enumerate(files.models):
        model.save_weights(tmp_path / f"m{i}.weights.h5")
    weights, out = f"{tmp_path}/*.weights.h5", tmp_path / "out.keras"
    fails("pack", out, weights, match="holds weights without a config. Pass template=")
    run("pack", out, weights, "--template", files.paths[0])
    assert "All 3 members are equal" in run("verify", out, weights)
    (tmp_path / "model.json").write_text(files.models[0].to_json())
    run("pack", out, tmp_path / "m0.weights.h5", "--template", tmp_path / "model.json", "--overwrite", "--no-verify")
    assert "All 1 members are equal" in run("verify", out, tmp_path / "m0.weights.h5")


def test_models_of_several_architectures_pack_and_verify_in_the_order_given(files, x, tmp_path):
    paths, out = [files.paths[0], str(tmp_path / "deep.keras"), files.paths[1]], tmp_path / "out.keras"
    deep = keras.Sequential([keras.Input((6,)), k.Dense(3), k.Dense(3), k.Dense(4)])
    deep.save(paths[1])
    fails("pack", out, *paths, match="group=True")
    run("pack", out, *paths, "--group")
    assert "deep.keras" in run("inspect", out)
    assert "All 3 members are equal" in run("verify", out, *paths)
    fails("verify", out, *reversed(paths), paths[0], match="has 3 members. Received: 4")
    fails("verify", out, paths[1], paths[0], paths[2], match="2 of 3 members are not the model in their file")
    multi = keras.models.load_model(out, compile=False)
    np.testing.assert_allclose(multi.predict(x)[:, 1], deep.predict(x, verbose=0), rtol=1e-5, atol=1e-6)


OWN = """
import keras

@keras.saving.register_keras_serializable("own_layers")
class Doubled(keras.layers.Layer):
    def call(self, x):
        return x * 2
"""


@pytest.mark.filterwarnings("ignore:.*has no rule of its own")
def test_custom_classes_come_from_an_imported_module(tmp_path, monkeypatch, x):
    (tmp_path / "own_layers.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    own = keras.Sequential([keras.Input((6,)), importlib.import_module("own_layers").Doubled(name="doubled")])
    own.save("own.keras")
    del sys.modules["own_layers"], keras.saving.get_custom_objects()["own_layers>Doubled"]  # as in a new process
    fails("pack", "out.keras", "own.keras", match="Doubled' in layer 'doubled'")
    fails("pack", "out.keras", "own.keras", match="on the command line `--import MODULE`")
    fails("pack", "out.keras", "own.keras", "--import", "no_layers", match="can be imported. Received: 'no_layers'")
    run("pack", "out.keras", "own.keras", "own.keras", "--import", "own_layers", "--import", "json")
    np.save("x.npy", x)
    run("predict", "out.keras", "x.npy", "y.npy", "--import", "own_layers")
    np.testing.assert_allclose(np.load("y.npy")[:, 1], 2 * x)
    for command in (
        ["inspect", "out.keras"],
        ["verify", "out.keras", "own.keras", "own.keras"],
        ["unpack", "out.keras", "d"],
    ):
        run(*command, "--import", "own_layers")


def test_half_precision_is_judged_as_packing_judges_it(tmp_path):
    """By the lowest precision that the model computes in, also where its outputs are float32."""

    def half(seed):
        keras.utils.set_random_seed(seed)
        inner = [k.Dense(64, activation="tanh", dtype="mixed_bfloat16") for _ in range(4)]
        return keras.Sequential([keras.Input((64,)), *inner, k.Dense(3)])

    paths = save_all([half(seed) for seed in range(2)], tmp_path / "half")
    kmw.pack(paths).save(tmp_path / "packed.keras")
    assert "All 2 members are equal" in run("verify", tmp_path / "packed.keras", *paths)


# ---- inspect ----


def test_inspect_shows_members_sizes_borders_and_the_plan(files):
    output = run("inspect", files.packed)
    assert all(path in output for path in files.paths)
    a_member = 6 * 5 + 5 + 5 * 4 + 4
    for text in (f"parameters a member │ {a_member}", f"parameters in all │ {3 * a_member}",
                 "memory of the weights │ 708 bytes", "x (rows, 6) float32",
                 "(rows, 3, 4) float32", "MultiDense"):  # fmt: skip
        assert text in output


def test_inspect_shows_all_inputs_and_outputs(files):
    output = run("inspect", files.two_sided)
    assert all(
        f in output for f in ("ids (rows, 3) int32", "x (rows, 2) float32", "mean (rows, 2, 1)", "spread (rows, 2, 2)")
    )


def test_inspect_says_that_a_plain_model_is_not_packed(files):
    output = run("inspect", files.paths[0])
    assert "a plain Keras model, not a packed one. Pack it with others like it: keras-multiweight pack" in output
    fails("inspect", files.broken, match="must be a model that Keras saved")


# ---- predict ----


@pytest.mark.parametrize("batch", [(), ("--batch-size", "2")])
def test_predict_writes_the_answers_of_every_member(files, x, tmp_path, batch):
    np.save(tmp_path / "x.npy", x)
    run("predict", files.packed, tmp_path / "x.npy", tmp_path / "y.npy", *batch)
    assert contents(tmp_path) == ["x.npy", "y.npy"]
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), stacked(files.models, x), rtol=1e-5, atol=1e-6)


def test_average_is_the_mean_over_the_members(files, x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    run("predict", files.packed, tmp_path / "x.npy", tmp_path / "y.npy", "--average")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), stacked(files.models, x).mean(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("header", ["", "a,b,c,d,e,f", "\ufeffa,b,c,d,e,f"])
def test_csv_goes_in_and_out(files, x, tmp_path, header):
    np.savetxt(tmp_path / "x.csv", x, delimiter=",", header=header, comments="", fmt="%.9g", encoding="utf-8")
    if not header:
        (tmp_path / "x.csv").write_text((tmp_path / "x.csv").read_text().lstrip())
    run("predict", files.packed, tmp_path / "x.csv", tmp_path / "y.csv")
    names = (tmp_path / "y.csv").read_text().splitlines()[0].split(",")
    assert names[:5] == [f"member_0_output_{c}" for c in range(4)] + ["member_1_output_0"]
    y = np.loadtxt(tmp_path / "y.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(y.reshape(ROWS, MEMBERS, 4), stacked(files.models, x), rtol=1e-5, atol=1e-6)


def test_csv_of_single_numbers_has_one_column_a_member(tmp_path, x):
    models = [vector_model(units=1, seed=i) for i in range(2)]
    kmw.pack(models).save(tmp_path / "packed.keras")
    np.save(tmp_path / "x.npy", x)
    run("predict", tmp_path / "packed.keras", tmp_path / "x.npy", tmp_path / "y.csv")
    run("predict", tmp_path / "packed.keras", tmp_path / "x.npy", tmp_path / "average.csv", "--average")
    assert (tmp_path / "y.csv").read_text().splitlines()[0] == "member_0,member_1"
    assert (tmp_path / "average.csv").read_text().splitlines()[0] == "average"
    y = np.loadtxt(tmp_path / "y.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(y, stacked(models, x)[..., 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("names", [("ids", "x"), ("arr_0", "arr_1")])
def test_npz_holds_several_inputs_and_outputs(files, tmp_path, names):
    rng = np.random.default_rng(0)
    ids, x = rng.integers(0, 7, (ROWS, 3)), rng.normal(size=(ROWS, 2))
    np.savez(tmp_path / "in.npz", **dict(zip(names, (ids, x))))
    run("predict", files.two_sided, tmp_path / "in.npz", tmp_path / "out.npz")
    out = np.load(tmp_path / "out.npz")
    assert out["mean"].shape == (ROWS, 2, 1) and out["spread"].shape == (ROWS, 2, 2)
    for i, model in enumerate(files.two_sided_models):
        mean, spread = model.predict({"ids": ids.astype("int32"), "x": x.astype("float32")}, verbose=0)
        np.testing.assert_allclose(out["mean"][:, i], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(out["spread"][:, i], spread, rtol=1e-5, atol=1e-6)


def test_predict_without_out_shows_the_first_answers(files, x, tmp_path):
    np.save(tmp_path / "x.npy", np.repeat(x, 3, axis=0))
    output = run("predict", files.packed, tmp_path / "x.npy")
    assert "(15, 3, 4)" in output and "member 2" in output and "give OUT to write all" in output
    assert f"{stacked(files.models, x)[0, 0, 0]:.3g}" in output
    assert "average" in run("predict", files.packed, tmp_path / "x.npy", "--average")


def test_inputs_that_do_not_fit_are_refused(files, x, tmp_path):
    def refused(model, match, suffix="npy", **arrays):
        path = tmp_path / f"x.{suffix}"
        np.savez(path, **arrays) if suffix == "npz" else np.save(path, arrays["x"])
        fails("predict", model, path, tmp_path / "y.npz", match=match)

    refused(files.packed, "Input 'x' must have the shape (rows, 6). Received: (5, 5)", x=x[:, :5])
    refused(files.packed, "Received: (6,) in", x=x[0])
    refused(files.packed, "A single sample needs a first axis: (1, ...)", x=x[0])
    refused(files.packed, "The model takes 1 input(s): x (rows, 6). Received: a (5, 6), b (5, 6)", "npz", a=x, b=x)
    refused(files.packed, "must have at least one row", x=x[:0])
    refused(files.packed, "takes float32. Received: other values, of dtype <U1", x=np.full((2, 6), "a"))
    refused(files.two_sided, "The model takes 2 input(s): ids (rows, 3), x (rows, 2). Received: arr_0 (5, 6)", x=x)
    refused(files.two_sided, "Put them into one .npz file, with the names ids, x", x=x)
    ids = np.zeros((ROWS, 3))
    refused(files.two_sided, "must have equally many rows", "npz", ids=ids, x=x[:2, :2])
    refused(files.two_sided, "Input 'ids' takes int32", "npz", ids=ids + 0.5, x=x[:, :2])
    assert not (tmp_path / "y.npz").exists()


def test_unreadable_inputs_are_refused(files, x, tmp_path):
    (tmp_path / "gap.csv").write_text("a,b\n1,2\n3,\n")
    (tmp_path / "empty.csv").write_text("a,b\n")
    (tmp_path / "nothing.csv").touch()
    (tmp_path / "broken.npy").write_text("nothing")
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    for name, match in {
        "gap.csv": "could not convert string ''", "empty.csv": "it has no rows", "nothing.csv": "it has no rows",
        "broken.npy": "cannot be read",
        "object.npy": "allow_pickle=False", "x.txt": "INPUT must end in .npy or .npz or .csv",
        "nowhere.npy": "INPUT must be a file that exists",
    }.items():  # fmt: skip
        fails("predict", files.packed, tmp_path / name, tmp_path / "y.npy", match=match)
    assert not (tmp_path / "y.npy").exists()


def test_predict_refuses_outputs_that_it_cannot_write(files, x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "y.npy").touch()
    data = tmp_path / "x.npy"
    fails("predict", files.packed, data, tmp_path / "y.txt", match="OUT must end in .npy or .npz or .csv")
    fails("predict", files.packed, data, tmp_path / "y.npy", match="Pass --overwrite")
    fails("predict", files.two_sided, data, tmp_path / "z.csv", match="2 outputs (mean, spread), which need an .npz file")
    run("predict", files.packed, data, tmp_path / "y.npy", "--overwrite")
    assert contents(tmp_path) == ["x.npy", "y.npy"]


# ---- verify ----


def test_verify_finds_every_member_equal(files):
    output = run("verify", files.packed, *files.paths)
    assert "All 3 members are equal to their files" in output


def test_verify_finds_a_single_bit(files, tmp_path):
    model = keras.models.load_model(files.paths[1])
    weights = model.get_weights()
    weights[0][0, 0] = np.nextafter(weights[0][0, 0], np.float32(9))
    model.set_weights(weights)
    model.save(tmp_path / "m1.keras")
    paths = [files.paths[0], tmp_path / "m1.keras", files.paths[2]]
    fails("verify", files.packed, *paths, match="1 of 3 members are not the model in their file")
    assert "1 of 4 differ" in run("verify", files.packed, *paths, code=1)


def test_verify_finds_another_order_and_another_config(files):
    first, second, third = files.paths
    fails("verify", files.packed, second, first, third, match="2 of 3 members are not the model in their file")
    fails("verify", files.packed, first, files.wider, third, match="units: 7 in the file")
    fails("verify", files.packed, files.wider, second, third, match="1 of 3 members are not the model in their file")


def test_verify_refuses_what_it_cannot_compare(files):
    fails("verify", files.packed, *files.paths[:2], match="has 3 members. Received: 2 model files")
    fails("verify", files.paths[0], *files.paths, match="must be a packed model")
    fails("verify", files.packed, *files.paths[:2], files.broken, match="must be a model that Keras saved")


# ---- demo ----


def test_demo_of_two_members_keeps_its_files_and_shows_a_table(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    import dataclasses

    small = [dataclasses.replace(task, steps=5) for task in demo.TASKS]
    monkeypatch.setattr(demo, "TASKS", small)
    output = run("demo", "--members", "2", "--keep", tmp_path / "kept")
    assert "2 models one after another, and packed" in output and "digits, accuracy" in output
    assert contents(tmp_path / "kept" / "digits") == ["member_000.keras", "member_001.keras"]
    run("predict", tmp_path / "kept" / "diabetes.keras", tmp_path / "kept" / "diabetes_inputs.npy")
    fails("demo", "--keep", tmp_path / "kept", match="keeps its files in a new or empty folder")


def test_demo_without_scikit_learn_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    fails("demo", match='needs scikit-learn for its data sets. Install it: pip install "keras-multiweight[demo]"')


@pytest.mark.slow
def test_demo_is_faster_equal_and_better():
    pytest.importorskip("sklearn")
    for result in demo.run(members=12):
        assert result.difference < 1e-5
        assert result.ratio > 1
        assert result.average_score >= result.member_score
