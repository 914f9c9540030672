"""Members from files: every kind of file, in the order meant, with the weights that Keras itself would load."""

import json
import tracemalloc
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers as k

import keras_multiweight as kmw
from keras_multiweight.packing.files import ModelFiles, allowed, load_model, sources
from keras_multiweight.packing.pack import collect_weights

FORMATS = (".keras", ".h5", ".weights.h5")


def build(units=4, seed=0):
    keras.utils.set_random_seed(seed)
    x = keras.Input((3,), name="x")
    return keras.Model(x, k.Dense(2)(k.Dense(units, activation="relu")(x)))


def save(model, path):
    model.save_weights(path) if str(path).endswith(".weights.h5") else model.save(path)
    return path


def save_all(folder, ending, count=3, model=build):
    """Members in files, their config beside them, and the models."""
    models = [model(seed=seed) for seed in range(count)]
    (folder / "model.json").write_text(models[0].to_json())
    return [save(model, folder / f"{i}{ending}") for i, model in enumerate(models)], models


def assert_members(multi, models):
    for i, model in enumerate(models):
        for a, b in zip(multi.member_weights(i), model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


# ---- which files ----


@pytest.mark.parametrize("ending", [*FORMATS, ".hdf5"])
def test_every_kind_of_file_packs(ending, tmp_path):
    paths, models = save_all(tmp_path, ending)
    multi = kmw.pack(paths)
    assert multi.member_names == [str(path) for path in paths]
    assert_members(multi, models)


def test_folders_and_patterns_give_their_models_in_natural_order(tmp_path):
    models = {i: build(seed=i) for i in (1, 2, 10)}
    for i in (10, 2, 1):
        models[i].save(tmp_path / f"run{i}.keras")
    models[1].save(tmp_path / "run3.h5")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.keras").mkdir()
    in_order = [str(tmp_path / name) for name in ("run1.keras", "run2.keras", "run3.h5", "run10.keras")]
    assert kmw.pack(tmp_path, verify=False).member_names == in_order
    assert kmw.pack(f"{tmp_path}/", verify=False).member_names == in_order
    assert kmw.pack(f"{tmp_path}/run?.keras", verify=False).member_names == in_order[:2]
    multi = kmw.pack([tmp_path / "run10.keras", f"{tmp_path}/run?.keras"], verify=False)
    assert_members(multi, [models[10], models[1], models[2]])


def test_a_folder_or_pattern_without_models_is_named(tmp_path):
    (tmp_path / "model.json").touch()
    for files in (tmp_path, f"{tmp_path}/*.keras"):
        with pytest.raises(FileNotFoundError, match=r"at least one saved model \(\.keras, .*\)\. Received: .*matches none"):
            kmw.pack(files)


def test_formats_and_versions_of_keras_mix(tmp_path):
    """The same model in three formats, and in the words of a Keras that knew fewer arguments."""
    models = [build(seed=seed) for seed in range(3)]
    paths = [
        save(models[0], tmp_path / "a.keras"),
        save(models[1], tmp_path / "b.h5"),
        save(models[2], tmp_path / "c.keras"),
    ]

    def older(config):
        if isinstance(config, dict):
            policy = config.get("class_name") == "DTypePolicy"
            return "float32" if policy else {k: older(v) for k, v in config.items() if k != "quantization_config"}
        return [older(item) for item in config] if isinstance(config, list) else config

    with zipfile.ZipFile(paths[2]) as old, zipfile.ZipFile(tmp_path / "old.keras", "w") as new:
        new.writestr("config.json", json.dumps(older(json.loads(old.read("config.json")))))
        new.writestr("metadata.json", '{"keras_version": "3.0.0"}')
        new.writestr("model.weights.h5", old.read("model.weights.h5"))
    paths[2] = tmp_path / "old.keras"
    assert_members(kmw.pack(paths), models)
    assert_members(kmw.pack(paths[::-1]), models[::-1])
    with pytest.raises(kmw.IncompatibleModelsError, match=r"units=4 in member 0 and units=5 in member 1, .*d\.h5"):
        kmw.pack([paths[0], save(build(5), tmp_path / "d.h5")])


# ---- template ----


def test_weights_pack_with_a_template(tmp_path):
    paths, models = save_all(tmp_path, ".weights.h5")
    template = build(seed=9)
    saved = [save(template, tmp_path / "template.keras"), save(template, tmp_path / "template.h5"), tmp_path / "model.json"]
    own = template.get_weights()
    for given in (template, *saved):
        assert_members(kmw.pack(paths, template=given), models)
    (tmp_path / "model.json").unlink()
    assert_members(kmw.pack(paths, template=template), models)
    for before, after in zip(own, template.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_config_of_the_weights_own_name_comes_before_that_of_the_folder(tmp_path):
    save_all(tmp_path, ".weights.h5", 1)
    paths = [save(build(units=5, seed=seed), tmp_path / f"wide{seed}.weights.h5") for seed in range(2)]
    for path in paths:
        path.with_name(path.name.replace(".weights.h5", ".json")).write_text(build(units=5).to_json())
    assert kmw.pack(paths).member(0).layers[1].units == 5
    with pytest.raises(kmw.IncompatibleModelsError, match="units=4 in member 0 and units=5 in member 1"):
        kmw.pack([tmp_path / "0.weights.h5", *paths])


def test_weights_of_a_legacy_file_pack_with_a_template(tmp_path):
    paths, models = save_all(tmp_path, ".h5")
    for path in paths:
        with h5py.File(path, "a") as file:
            del file.attrs["model_config"]
    assert_members(kmw.pack(paths, template=models[1]), models)
    with pytest.raises(ValueError, match=r"0\.h5', which cannot be read: .*weights without a config\. Pass template="):
        kmw.pack(paths)


def test_weights_without_a_config_say_how_to_give_one(tmp_path):
    paths, _ = save_all(tmp_path, ".weights.h5", 2)
    (tmp_path / "model.json").rename(tmp_path / "0.json")
    with pytest.raises(ValueError, match=r"1\.weights\.h5', which cannot be read: .*put the config beside the weights"):
        kmw.pack(paths)


def test_a_template_that_does_not_fit_is_refused(tmp_path):
    wide = [build(units=5)]
    for ending in (".keras", ".h5"):
        with pytest.raises(kmw.IncompatibleModelsError, match="units=5 in member 0 and units=4 in member 0"):
            kmw.pack([save(build(), tmp_path / f"a{ending}")], template=wide[0])
    weights = save(build(), tmp_path / "a.weights.h5")
    before = wide[0].get_weights()
    with pytest.raises(
        kmw.IncompatibleModelsError, match=r"kernel=\(\(3, 5\), 'float32'\).* and kernel=\(\(3, 4\), .*a\.weights\.h5"
    ):
        kmw.pack([weights], template=wide[0])
    for a, b in zip(before, wide[0].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    deep = keras.Sequential([keras.Input((3,)), *(k.Dense(4) for _ in range(4))])
    with pytest.raises(
        ValueError, match=r"a\.weights\.h5', which cannot be read: .*it holds 4 weights, where the template's files hold 8"
    ):
        kmw.pack([weights], template=deep)


def test_a_template_that_is_none_is_refused(tmp_path):
    paths, models = save_all(tmp_path, ".weights.h5", 1)
    with pytest.raises(ValueError, match=r"template must be a Keras model or a path\. Received: template=3"):
        kmw.pack(paths, template=3)
    with pytest.raises(ValueError, match=r"Received: models in memory, and a template"):
        kmw.pack(models, template=models[0])
    with pytest.raises(ValueError, match=r"an unbuilt Sequential .* as member template"):
        kmw.pack(paths, template=keras.Sequential([k.Dense(2)]))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        kmw.pack(paths, template=tmp_path / "nowhere.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match=r"list\.json', which cannot be read: .*a JSON object with a 'class_name'"):
        kmw.pack(paths, template=tmp_path / "list.json")


# ---- weights ----


def many_layers(seed=0):
    """One of each kind that keeps its weights in a way of its own."""
    keras.utils.set_random_seed(seed)
    x, z = keras.Input((6, 8), name="x"), keras.Input((8,), name="z")
    shared = k.Dense(8, activation="tanh")
    inner = keras.Input((6, 8))
    block = keras.Model(inner, k.LayerNormalization()(shared(inner)))
    y = block(block(x))
    y = k.Bidirectional(k.LSTM(4, return_sequences=True))(y)
    y = k.TimeDistributed(keras.Sequential([keras.Input((8,)), k.Dense(8), k.BatchNormalization()]))(y)
    y = k.Add()([k.MultiHeadAttention(2, 4)(y, y), k.GroupQueryAttention(4, 4, 2)(y, y)])
    y = k.RNN([k.GRUCell(8), k.SimpleRNNCell(8)], return_sequences=True)(y)
    y = k.SeparableConv1D(8, 3, padding="same")(k.PReLU()(k.Conv1D(8, 3, padding="same")(y)))
    y = k.SpectralNormalization(k.Dense(8))(k.Dropout(0.1)(y))
    y = k.GlobalAveragePooling1D()(k.GroupNormalization(2)(y))
    z = k.Normalization()(z)
    y = k.Concatenate()([y, k.Dense(3, dtype="mixed_float16")(z), k.EinsumDense("ab,bc->ac", 4)(z)])
    model = keras.Model([x, z], k.Dense(2)(y))
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "float" in weight.dtype:
            weight.assign(rng.random(weight.shape) + 0.5)
    return model


@pytest.mark.parametrize("ending", FORMATS)
def test_weights_are_those_that_keras_loads(ending, tmp_path, monkeypatch):
    """Read from where they lie, not by Keras: `load_weights` is for the files of older versions."""
    monkeypatch.setattr(sources, "load_weights", lambda *args: pytest.fail("loaded by Keras"))
    paths, models = save_all(tmp_path, ending, 2, many_layers)
    reader = ModelFiles(paths, template=None if ending != ".weights.h5" else models[0])
    for member, path, model in zip(reader, paths, models):
        loaded = model if ending == ".weights.h5" else keras.models.load_model(path)
        for a, b, c in zip(member.load().get_weights(), loaded.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)


@pytest.mark.parametrize("ending", FORMATS)
def test_what_a_layer_derives_from_its_weights_is_derived_anew(ending, tmp_path):
    """A Normalization computes with the mean and variance as they were when its weights were last loaded."""

    def normalized(seed):
        model = keras.Sequential([keras.Input((3,)), k.Normalization()])
        model.layers[0].adapt(np.random.default_rng(seed).normal(seed, 1 + seed, (50, 3)).astype("float32"))
        return model

    paths, models = save_all(tmp_path, ending, 3, normalized)
    x = np.ones((2, 3), "float32")
    for member, model in zip(ModelFiles(paths), models):
        np.testing.assert_allclose(member.load()(x), model(x), rtol=1e-5)


def test_weights_in_bfloat16_are_read_bit_for_bit(tmp_path):
    def half(seed):
        keras.utils.set_random_seed(seed)
        return keras.Sequential([keras.Input((3,)), *(k.Dense(3, dtype="bfloat16") for _ in range(3))])

    paths, models = save_all(tmp_path, ".keras", 2, half)
    for member, model in zip(ModelFiles(paths), models):
        for a, b in zip(member.load().weights, model.weights, strict=True):
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b))


def test_files_of_an_older_layout_are_read_by_keras(tmp_path):
    paths, models = save_all(tmp_path, ".weights.h5")
    for path in paths:
        with h5py.File(path, "a") as file:
            file.move("layers", "_layer_checkpoint_dependencies")
    assert_members(kmw.pack(paths), models)


@pytest.mark.parametrize("ending", FORMATS)
def test_weights_of_more_layers_than_the_template_has_are_refused(ending, tmp_path):
    """Keras loads the layers that the template has, and leaves out the others in silence."""

    def deep(count):
        return keras.Sequential([keras.Input((3,)), *(k.Dense(3) for _ in range(count))])

    path = save(deep(3), tmp_path / f"deep{ending}")
    with pytest.raises(ValueError, match=r"layers/dense_2/vars/0|layers|it holds"):
        kmw.pack([path], template=deep(2))
    if ending == ".weights.h5":
        deep(2).load_weights(path)
        with pytest.raises(kmw.IncompatibleModelsError, match=r"0=None in member 0 and 0=\(3, 3\) in member 0, .*deep"):
            kmw.pack([path], template=deep(2))


def test_random_states_of_early_versions_are_no_weights(tmp_path):
    paths, models = save_all(tmp_path, ".weights.h5")
    with h5py.File(paths[1], "a") as file:
        file["layers/dense/seed_generator/vars/0"] = np.zeros(2, "uint32")
    assert_members(kmw.pack(paths), models)


def test_legacy_files_of_keras_2_pack(tmp_path):
    """Without modules, with other names for arguments and layers, and with lists for the nodes of the graph."""
    models = [build(seed=seed) for seed in range(2)]
    for i, model in enumerate(models):
        model.save(tmp_path / f"{i}.h5")
        names = [f"x_{i}", f"dense_{i}", f"dense_{i + 7}"]
        with h5py.File(tmp_path / f"{i}.h5", "a") as file:
            file.attrs["model_config"] = json.dumps(keras_2_config(names))
            file.attrs["keras_version"] = "2.15.0"
    assert_members(kmw.pack([tmp_path / "0.h5", tmp_path / "1.h5"]), models)


def keras_2_config(names):
    def dense(name, source, units, activation):
        arguments = {"name": name, "trainable": True, "dtype": "float32", "units": units, "activation": activation}
        arguments |= {"use_bias": True, "kernel_initializer": {"class_name": "GlorotUniform", "config": {"seed": None}}}
        return {"class_name": "Dense", "config": arguments, "name": name, "inbound_nodes": [[[source, 0, 0, {}]]]}

    x, hidden, head = names
    inputs = {"batch_input_shape": [None, 3], "dtype": "float32", "sparse": False, "ragged": False, "name": x}
    layers = [{"class_name": "InputLayer", "config": inputs, "name": x, "inbound_nodes": []}]
    layers += [dense(hidden, x, 4, "relu"), dense(head, hidden, 2, "linear")]
    graph = {"name": "model", "trainable": True, "layers": layers}
    graph |= {"input_layers": [[x, 0, 0]], "output_layers": [[head, 0, 0]]}
    return {"class_name": "Functional", "config": graph}


def test_a_weight_that_is_there_twice_must_be_the_same(tmp_path):
    def normalized(seed):
        keras.utils.set_random_seed(seed)
        return keras.Sequential([keras.Input((3,)), k.SpectralNormalization(k.Dense(2))])

    paths, _ = save_all(tmp_path, ".weights.h5", 2, normalized)
    with h5py.File(paths[1], "a") as file:
        file["layers/spectral_normalization/layer/vars/0"][0] += 1
    with pytest.raises(ValueError, match=r"1\.weights\.h5', which cannot be read: .*kernel' is there twice"):
        kmw.pack(paths)


def test_models_that_were_trained_pack(tmp_path):
    paths, models = [], [build(seed=seed) for seed in range(2)]
    for i, (model, ending) in enumerate(zip(models, (".keras", ".h5"))):
        model.compile("adam", "mse", metrics=["mae"])
        model.train_on_batch(np.ones((4, 3)), np.ones((4, 2)))
        paths.append(save(model, tmp_path / f"{i}{ending}"))
    assert_members(kmw.pack(paths), models)
    assert_members(kmw.pack(paths, template=models[1]), models)


def test_packing_files_takes_little_more_memory_than_the_weights(tmp_path):
    def wide(seed):
        return keras.Sequential([keras.Input((300,)), k.Dense(300), k.Dense(300)])

    paths, models = save_all(tmp_path, ".keras", 12, wide)
    one = sum(w.nbytes for w in models[0].get_weights())
    del models
    source = ModelFiles(paths)
    collect_weights(source, source.template())  # what is made once
    tracemalloc.start()
    collect_weights(source, source.template())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (len(paths) + 6) * one


# ---- state beside the weights ----


def words(vocabulary, mode="int", x=("a b", "b c")):
    pytest.importorskip("tensorflow")
    text = k.TextVectorization(output_mode=mode, output_sequence_length=4 if mode == "int" else None)
    text.adapt(np.array(x)) if vocabulary is None else text.set_vocabulary(vocabulary)
    inputs = keras.Input((), dtype="string")
    y = k.Rescaling(1.0)(text(inputs)) if mode == "tf_idf" else k.Flatten()(k.Embedding(10, 2)(text(inputs)))
    return keras.Model(inputs, k.Dense(1)(y))


def load_all(paths):
    return [member.load() for member in ModelFiles(paths)]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="strings in a graph are TensorFlow's")
def test_vocabularies_that_were_learned_must_be_equal(tmp_path):
    a, b, c = (save(words(None, x=x), tmp_path / f"{i}.keras") for i, x in enumerate([("a b", "b")] * 2 + [("a b", "a")]))
    load_all([a, b])
    with pytest.raises(
        kmw.IncompatibleModelsError, match=r"vocabulary\.txt\[2\]='b' in member 0 and .*='a' in member 1, .*2\.keras"
    ):
        load_all([a, c])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="strings in a graph are TensorFlow's")
def test_document_frequencies_that_were_learned_must_be_equal(tmp_path):
    texts = [("a b", "b")] * 2 + [("a b", "b", "b")]
    a, b, c = (save(words(None, "tf_idf", x), tmp_path / f"{i}.keras") for i, x in enumerate(texts))
    load_all([a, b])
    with pytest.raises(kmw.IncompatibleModelsError, match=r"idf_weights=\[.* in member 0 and idf_weights='other values'"):
        load_all([a, c])


# ---- the user's own classes ----


class Unregistered(k.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x):
        return x * self.scale


class EagerVariable(k.Layer):
    """Makes its variable from an array, which a scope without memory refuses."""

    def build(self, shape):
        self.scale = keras.Variable(np.ones(shape[-1], "float32"), name="scale")

    def call(self, x):
        return x * self.scale


def custom(cls, seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((3,)), k.Dense(2), cls(name="own")])


@pytest.mark.filterwarnings("ignore:.*has no rule of its own")
@pytest.mark.parametrize("cls", [Unregistered, EagerVariable])
def test_a_custom_class_is_taken_from_the_user_and_never_from_a_file(cls, tmp_path):
    paths, models = save_all(tmp_path, ".keras", 2, lambda seed: custom(cls, seed))
    with pytest.raises(
        ValueError, match=rf"your own that this process knows\. .*{cls.__name__}.*custom_objects={{'{cls.__name__}'"
    ):
        kmw.pack(paths)
    assert_members(kmw.pack(paths, custom_objects={cls.__name__: cls}), models)
    with keras.saving.custom_object_scope({cls.__name__: cls}):
        assert_members(kmw.pack(paths), models)
    with pytest.raises(ValueError, match="your own that this process knows"):
        load_model(paths[0])
    keras.saving.get_custom_objects()[cls.__name__] = cls
    try:
        assert_members(kmw.pack(paths), models)
    finally:
        del keras.saving.get_custom_objects()[cls.__name__]


def test_every_layer_of_keras_but_those_that_bring_code_is_allowed():
    names = [name for name, cls in vars(k).items() if isinstance(cls, type) and issubclass(cls, k.Layer)]
    refused = set()
    for name in names:
        for module in ("keras.layers", None):
            try:
                allowed.check({"module": module, "class_name": name, "config": {}}, "a file")
            except ValueError:
                refused.add(name)
    assert refused == {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}


# ---- packed files ----


def test_a_packed_file_is_loaded_with_the_same_care(tmp_path):
    multi = kmw.pack([build(seed=seed) for seed in range(2)])
    multi.save(tmp_path / "packed.keras")
    assert_members(load_model(tmp_path / "packed.keras"), multi.unpack())
