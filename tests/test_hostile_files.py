"""Files that were made to do harm: each is refused by name and runs nothing, with Keras's switch to unsafe or without."""

import base64
import io
import json
import marshal
import stat
import sys
import threading
import types
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers as k

import keras_multiweight as kmw
from keras_multiweight.packing.files import UnsafeFileError, load_model
from keras_multiweight.packing.files.limits import CONFIG_BYTES

FORMATS = (".keras", ".h5", ".weights.h5")


def build():
    x = keras.Input((3,), name="x")
    return keras.Model(x, k.Dense(2, name="head")(k.Dense(4, activation="relu", name="hidden")(x)))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A harmless model in every format, with the config of the weights beside them. Read only."""
    folder = tmp_path_factory.mktemp("good")
    model = build()
    for ending in (".keras", ".h5"):
        model.save(folder / f"model{ending}")
    model.save_weights(folder / "model.weights.h5")
    (folder / "model.json").write_text(model.to_json())
    return {ending: folder / f"model{ending}" for ending in FORMATS}


@pytest.fixture(params=["safe", "unsafe"])
def switch(request):
    """With Keras's switch as it is, and turned to unsafe by other code of the process."""
    if request.param == "unsafe":
        keras.config.enable_unsafe_deserialization()
    yield
    keras.utils.clear_session()


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that foreign code would write, and a module that would write it when imported."""
    path = tmp_path / "code_ran"
    (tmp_path / "canary.py").write_text(f"import pathlib\npathlib.Path({str(path)!r}).touch()\nclass Evil:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    assert not path.exists(), "foreign code ran"
    assert "canary" not in sys.modules


def refused(path, match, good=None, error=UnsafeFileError):
    """A file must be refused alone, and after a good one; the message names it."""
    for paths in ([path], [good, path] if good else [path]):
        with pytest.raises(error, match=match) as caught:
            kmw.pack(paths, verify=False)
        assert str(path) in str(caught.value)
    with pytest.raises(error, match=match):
        load_model(path)


# ---- configs ----


def rewritten(source, target, change):
    """A `.keras` file with another config: what `change` makes of the text."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data.decode()) if name == "config.json" else data)
    return target


def with_layer(layer):
    """Change the config of the layer 'hidden'."""

    def change(text):
        config = json.loads(text)
        hidden = next(held for held in config["config"]["layers"] if held["config"]["name"] == "hidden")
        layer(hidden)
        return json.dumps(config)

    return change


def in_hidden(**arguments):
    return with_layer(lambda hidden: hidden["config"].update(arguments))


def in_place_of_hidden(class_name, module="keras.layers", **config):
    def change(hidden):
        hidden.update(module=module, class_name=class_name, config={"name": "hidden", "trainable": True, **config})

    return with_layer(change)


def bytecode(marker):
    """A Python function that leaves a mark, as Keras writes it into files."""
    code = compile(f"lambda x: __import__('pathlib').Path({str(marker)!r}).touch() or x", "evil", "eval")
    function = next(c for c in code.co_consts if isinstance(c, types.CodeType))
    return {"code": base64.b64encode(marshal.dumps(function)).decode(), "defaults": None, "closure": None}


def python_lambda(marker):
    return {"class_name": "__lambda__", "config": {"value": bytecode(marker)}}


def thing(module, class_name, config=None, **more):
    return {"module": module, "class_name": class_name, "config": config or {}, "registered_name": None, **more}


def function(module, name):
    return thing(module, "function", name, registered_name=name)


@keras.saving.register_keras_serializable("tests", "Registered")
class Registered(k.Layer):
    """A layer of the user's own, which a file may name, and name rightly."""


@keras.saving.register_keras_serializable("tests", "OwnLambda")
class OwnLambda(k.Lambda):
    """A registered layer that still would run the bytecode of a file."""


CODE = r"A file may bring no code of its own\. Received: a"
UNKNOWN = r"A config may name classes and functions of Keras.* Received: "
CONFIGS = {
    "lambda_layer": (lambda m: in_place_of_hidden("Lambda", function=python_lambda(m)), rf"{CODE} Lambda.*'hidden'"),
    "registered_lambda": (
        lambda m: in_place_of_hidden("OwnLambda", "tests", registered_name="tests>OwnLambda", function=python_lambda(m)),
        r"Received: OwnLambda|a kind of Lambda",
    ),
    "lambda_by_its_inner_module": (
        lambda m: in_place_of_hidden("Lambda", "keras.src.layers.core.lambda_layer", function=python_lambda(m)),
        rf"{CODE} Lambda",
    ),
    "lambda_activation": (lambda m: in_hidden(activation=python_lambda(m)), rf"{CODE} __lambda__"),
    "lambda_regularizer": (lambda m: in_hidden(kernel_regularizer=python_lambda(m)), rf"{CODE} __lambda__"),
    "tfsm_layer": (lambda m: in_place_of_hidden("TFSMLayer", filepath=str(m)), rf"{CODE} TFSMLayer.*safe_mode=False"),
    "torch_module": (lambda m: in_place_of_hidden("TorchModuleWrapper", module=""), rf"{CODE} TorchModuleWrapper"),
    "jax_layer": (lambda m: in_place_of_hidden("JaxLayer", call_fn=python_lambda(m)), rf"{CODE}"),
    "flax_layer": (lambda m: in_place_of_hidden("FlaxLayer", module=python_lambda(m)), rf"{CODE}"),
    "module_os": (lambda m: in_place_of_hidden("system", "os", command=f"touch {m}"), rf"{UNKNOWN}system 'os.system'"),
    "module_that_runs_on_import": (
        lambda m: in_place_of_hidden("Evil", "canary"),
        rf"{UNKNOWN}Evil 'canary.Evil'.*--import",
    ),
    "activation_of_a_module": (lambda m: in_hidden(activation=function("os", "system")), rf"{UNKNOWN}function 'os.system'"),
    "builtin_function": (
        lambda m: in_hidden(activation=function("builtins", "eval")),
        rf"{UNKNOWN}function 'builtins.eval'",
    ),
    "keras_that_is_no_maths": (
        lambda m: in_hidden(activation=function("keras.utils", "get_file")),
        rf"{UNKNOWN}function 'keras.utils.get_file'",
    ),
    "keras_switch": (
        lambda m: in_hidden(activation=function("keras.config", "enable_unsafe_deserialization")),
        rf"{UNKNOWN}function 'keras.config.enable_unsafe_deserialization'",
    ),
    "inner_keras": (
        lambda m: in_hidden(activation=function("keras.src.utils.python_utils", "func_load")),
        rf"{UNKNOWN}function 'keras.src.utils.python_utils.func_load'",
    ),
    "module_of_a_keras_module": (
        lambda m: in_place_of_hidden("system", "keras.src.utils.file_utils.os"),
        rf"{UNKNOWN}system 'keras.src.utils.file_utils.os.system'",
    ),
    "initializer_of_a_module": (
        lambda m: in_hidden(kernel_initializer=thing("canary", "Evil")),
        rf"{UNKNOWN}Evil 'canary.Evil' in layer 'hidden'",
    ),
    "initializer_in_a_wrapper": (
        lambda m: in_place_of_hidden(
            "TimeDistributed", layer=thing("keras.layers", "Dense", {"x": thing("canary", "Evil")})
        ),
        rf"{UNKNOWN}Evil",
    ),
    "build_config": (
        lambda m: with_layer(lambda hidden: hidden.update(build_config={"input_shape": thing("canary", "Evil")})),
        rf"{UNKNOWN}Evil",
    ),
    "two_names": (
        lambda m: with_layer(lambda hidden: hidden.update(registered_name="tests>Registered")),
        r"must say the same\. Received: class_name='Dense' with registered_name='tests>Registered'",
    ),
    "class_without_a_name": (lambda m: with_layer(lambda h: h.update(class_name=["Dense"])), r"must be named.*\['Dense'\]"),
    "vocabulary_of_a_path": (
        lambda m: in_place_of_hidden("StringLookup", vocabulary=str(m)),
        r"A vocabulary must be in the model.*code_ran.*adapt\(\)",
    ),
    "vocabulary_of_bytes": (
        lambda m: in_place_of_hidden("TextVectorization", vocabulary={"class_name": "__bytes__", "config": {"value": "x"}}),
        r"A vocabulary must be in the model",
    ),
    "typespec": (
        lambda m: in_hidden(extra={"class_name": "__typespec__", "spec_name": "Evil", "module": "canary", "config": []}),
        rf"{CODE} __typespec__",
    ),
    "huge": (lambda m: lambda text: text + " " * CONFIG_BYTES, rf"may have at most {CONFIG_BYTES:,} bytes"),
    "deep": (lambda m: lambda text: '{"config": {"a": ' + "[" * 300 + "]" * 300 + "}}", "at most 200 levels"),
    "bottomless": (lambda m: lambda text: '{"config": ' + "[" * 10**5 + "]" * 10**5 + "}", "at most 200 levels"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_config_is_refused_by_name(name, good, tmp_path, marker, switch):
    make, match = CONFIGS[name]
    refused(rewritten(good[".keras"], tmp_path / "bad.keras", make(marker)), match, good[".keras"])


@pytest.mark.parametrize("name", ["lambda_layer", "module_that_runs_on_import", "initializer_of_a_module"])
def test_a_hostile_config_is_refused_in_h5_beside_weights_and_as_template(name, good, tmp_path, marker, switch):
    make, match = CONFIGS[name]
    change = make(marker)
    text = change(zipfile.ZipFile(good[".keras"]).read("config.json").decode())
    (tmp_path / "bad.weights.h5").write_bytes(good[".weights.h5"].read_bytes())
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(UnsafeFileError, match=match):
        kmw.pack([tmp_path / "bad.weights.h5"])
    with pytest.raises(UnsafeFileError, match=match):
        kmw.pack([good[".weights.h5"]], template=tmp_path / "bad.json")
    (tmp_path / "bad.h5").write_bytes(good[".h5"].read_bytes())
    with h5py.File(tmp_path / "bad.h5", "a") as file:
        file.attrs["model_config"] = change(file.attrs["model_config"])
    refused(tmp_path / "bad.h5", match, good[".h5"])


def test_the_hostile_lambda_is_one(good, tmp_path):
    """What the tests above would miss if their files were harmless."""
    marker = tmp_path / "code_ran"
    model = keras.Sequential([keras.Input((3,)), k.Lambda(lambda x: x)])
    model.save(tmp_path / "lambda.keras")

    def change(text):
        config = json.loads(text)
        config["config"]["layers"][1]["config"]["function"]["config"] = bytecode(marker)
        return json.dumps(config)

    rewritten(tmp_path / "lambda.keras", tmp_path / "bad.keras", change)
    keras.config.enable_unsafe_deserialization()
    try:
        keras.models.load_model(tmp_path / "bad.keras", safe_mode=True)(np.ones((1, 3)))
        assert marker.exists()
    finally:
        keras.utils.clear_session()


def test_what_a_model_was_trained_with_is_not_looked_at(good, tmp_path, marker, switch):
    evil = {"optimizer": thing("canary", "Evil"), "loss": python_lambda(marker)}

    def change(text):
        return json.dumps({**json.loads(text), "compile_config": evil})

    path = rewritten(good[".keras"], tmp_path / "bad.keras", change)
    assert kmw.pack([path, good[".keras"]], verify=False).num_members == 2


def test_a_string_that_names_foreign_code_is_only_a_string(good, tmp_path, marker):
    path = rewritten(good[".keras"], tmp_path / "bad.keras", in_hidden(activation="os.system"))
    refused(path, r"(?s)cannot be read.*os\.system", error=ValueError)


def test_a_config_of_any_size_takes_no_memory(good, tmp_path, switch):
    """A layer of 4 TB with the weights of a small one."""
    path = rewritten(good[".keras"], tmp_path / "bad.keras", in_hidden(units=10**12 // 3))
    refused(path, "cannot be read.*333333333333", error=ValueError)
    assert threading.active_count() < 50


# ---- archives ----


def extended(source, target, add):
    target.write_bytes(source.read_bytes())
    with zipfile.ZipFile(target, "a") as archive:
        add(archive)
    return target


def _link(archive):
    info = zipfile.ZipInfo("assets/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, "/etc/passwd")


def _bomb(archive):
    archive.writestr("assets/zeros", bytes(2**22), zipfile.ZIP_DEFLATED)


def _twice(archive):
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("config.json", "{}")


ARCHIVES = {
    "parent": (lambda a: a.writestr("assets/../../evil.txt", "evil"), r"plain path.*'assets/\.\./\.\./evil\.txt'"),
    "absolute": (lambda a: a.writestr("/tmp/evil.txt", "evil"), r"plain path.*'/tmp/evil\.txt'"),
    "drive": (lambda a: a.writestr("c:/evil.txt", "evil"), r"plain path.*'c:/evil\.txt'"),
    "backslash": (lambda a: a.writestr(r"assets\..\..\evil.txt", "evil"), r"plain path.*evil\.txt"),
    "link": (_link, r"may hold no links.*'assets/link'"),
    "bomb": (_bomb, r"at most 100 times its stored size.*'assets/zeros' of 4,194,304 bytes"),
    "twice": (_twice, r"may stand in an archive once.*'config\.json' twice"),
    "many": (lambda a: [a.writestr(f"assets/{i}", "") for i in range(10_001)], r"at most 10,000 files"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_hostile_archive_is_refused_by_name(name, good, tmp_path):
    add, match = ARCHIVES[name]
    before = set(tmp_path.parent.rglob("evil*"))
    refused(extended(good[".keras"], tmp_path / "bad.keras", add), match, good[".keras"])
    assert set(tmp_path.parent.rglob("evil*")) == before


def test_damaged_files_are_refused(good, tmp_path):
    for ending, source in good.items():
        data = source.read_bytes()
        path = tmp_path / f"half{ending}"
        path.write_bytes(data[: len(data) // 2])
        refused(path, "cannot be read", source, ValueError)
    data = bytearray(good[".keras"].read_bytes())
    data[data.index(b"\x89HDF") + 3000] ^= 1
    (tmp_path / "flipped.keras").write_bytes(data)
    refused(tmp_path / "flipped.keras", "cannot be read: BadZipFile: Bad CRC", good[".keras"], ValueError)


# ---- weights ----


def tampered(source, target, change):
    """A model file whose H5 part is changed; `change` gets the group and the name of a dataset of 3 x 4 numbers."""
    target.write_bytes(source.read_bytes())
    if target.suffix == ".keras":
        with zipfile.ZipFile(source) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        image = io.BytesIO(members["model.weights.h5"])
        _change(image, change)
        with zipfile.ZipFile(target, "w") as archive:
            for name, data in {**members, "model.weights.h5": image.getvalue()}.items():
                archive.writestr(name, data)
    else:
        (target.parent / "model.json").write_text((source.parent / "model.json").read_text())
        _change(target, change)
    return target


def _change(file, change):
    with h5py.File(file, "a") as h5:
        found = []
        h5.visititems(lambda name, x: found.append(x) if isinstance(x, h5py.Dataset) and x.shape == (3, 4) else None)
        group, name = found[0].parent, found[0].name.split("/")[-1]
        change(group, name, h5)


def _replaced(make):
    def change(group, name, h5):
        del group[name]
        make(group, name)

    return change


def _soft(group, name):
    group[name] = h5py.SoftLink("/other")


def _external_link(group, name):
    group[name] = h5py.ExternalLink("/etc/other.h5", "/kernel")


def _external(group, name):
    group.create_dataset(name, (3, 4), "float32", external=[("/etc/passwd", 0, 48)])


def _virtual(group, name):
    layout = h5py.VirtualLayout((3, 4), "float32")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "kernel", (3, 4))
    group.create_virtual_dataset(name, layout)


def _cycle(group, name, h5):
    h5["again"] = h5["/"]


HUGE = (10**6, 10**6)
WEIGHTS = {
    "soft_link": (_replaced(_soft), "no links to elsewhere.*a soft link at"),
    "external_link": (_replaced(_external_link), "no links to elsewhere.*an external link at"),
    "external_dataset": (_replaced(_external), "must be in its own file.*bytes are in another file at"),
    "virtual_dataset": (_replaced(_virtual), "must be in its own file.*a virtual dataset at"),
    "shape_without_values": (
        _replaced(lambda g, n: g.create_dataset(n, HUGE, "float32")),
        "must have values.*1000000, 1000000",
    ),
    "values_that_are_not_there": (
        _replaced(lambda g, n: g.create_dataset(n, (3, 4), "float32")),
        r"must have values.*\(3, 4\)",
    ),
    "chunk_bomb": (
        _replaced(
            lambda g, n: g.create_dataset(n, data=np.ones((3, 4), "f4"), chunks=(2**10, 2**10), maxshape=(None, None))
        ),
        "chunk may not be larger.*4,194,304 bytes",
    ),
    "foreign_filter": (
        _replaced(lambda g, n: g.create_dataset(n, data=np.ones((3, 4), "f4"), compression="lzf")),
        "stored plainly or by gzip",
    ),
    "strings": (_replaced(lambda g, n: g.create_dataset(n, data=[["a"] * 4] * 3)), "must be numbers.*object"),
}


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("name", WEIGHTS)
def test_hostile_weights_are_refused_by_name(name, ending, good, tmp_path):
    change, match = WEIGHTS[name]
    refused(tampered(good[ending], tmp_path / f"bad{ending}", change), match, good[ending])


@pytest.mark.parametrize("ending", FORMATS)
def test_a_compressed_bomb_is_refused_before_it_is_read(ending, good, tmp_path):
    """4 MB of zeros that take 4 kB, in the place of 12 numbers."""

    def bomb(group, name):
        group.create_dataset(name, data=np.zeros((1024, 1024), "float32"), compression="gzip")

    path = tampered(good[ending], tmp_path / f"bad{ending}", _replaced(bomb))
    with pytest.raises(UnsafeFileError, match=r"at most 100 times its stored size.*\(1024, 1024\)"):
        kmw.pack([path])
    with pytest.raises(kmw.IncompatibleModelsError, match=r"\(1024, 1024\).*in member 1, .*bad"):
        kmw.pack([good[ending], path])


@pytest.mark.parametrize("ending", FORMATS)
def test_other_shapes_and_dtypes_are_refused_by_weight(ending, good, tmp_path):
    for value in (np.ones((4, 3), "float32"), np.ones((3, 4), "float64")):
        other = _replaced(lambda group, name, value=value: group.create_dataset(name, data=value))
        path = tampered(good[ending], tmp_path / f"bad{ending}", other)
        with pytest.raises(
            kmw.IncompatibleModelsError, match=r"kernel=.* in member 0 and kernel=.* in member 1, .*'hidden'"
        ):
            kmw.pack([good[ending], path])


@pytest.mark.parametrize("ending", FORMATS)
def test_a_group_that_holds_itself_is_no_endless_one(ending, good, tmp_path):
    path = tampered(good[ending], tmp_path / f"cycle{ending}", _cycle)
    multi = kmw.pack([path, good[ending]])
    for a, b in zip(multi.member_weights(0), multi.member_weights(1), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_the_state_of_an_optimizer_is_never_read(ending, good, tmp_path):
    """It may be huge, or lie in another file."""
    name = "optimizer" if ending == ".keras" else "optimizer_weights"

    def change(group, key, h5):
        state = h5.create_group(name)
        state["elsewhere"] = h5py.ExternalLink("/etc/other.h5", "/state")
        state.create_dataset("huge", HUGE, "float32")

    path = tampered(good[ending], tmp_path / f"with_state{ending}", change)
    multi = kmw.pack([path, good[ending]])
    for a, b in zip(multi.member_weights(0), multi.member_weights(1), strict=True):
        np.testing.assert_array_equal(a, b)
