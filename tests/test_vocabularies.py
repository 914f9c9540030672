"""What `adapt` teaches lookup layers, which is neither in weights nor in configs: compared, kept and given back."""

import keras
import numpy as np
import pytest
from keras import layers as k
from keras import ops

import keras_multiweight as kmw

strings = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="no tensors of strings")


def numbers_model(vocabulary, adapt=True, idf=False):
    inputs = keras.Input((3,), dtype="int64")
    options = {"output_mode": "tf_idf"} if idf else {}
    if adapt:
        lookup = k.IntegerLookup(name="lookup", **options)
        lookup.adapt(np.array(vocabulary))
    else:
        lookup = k.IntegerLookup(vocabulary=vocabulary, name="lookup")
    x = lookup(inputs)
    return keras.Model(inputs, k.Dense(2)(ops.cast(x, "float32")))


def texts_model(texts):
    inputs = keras.Input((), dtype="string")
    vectorize = k.TextVectorization(name="vectorize", output_sequence_length=4)
    vectorize.adapt(texts)
    return keras.Model(inputs, k.LSTM(2)(k.Embedding(12, 3, mask_zero=True)(vectorize(inputs))))


def test_another_vocabulary_is_refused():
    with pytest.raises(kmw.IncompatibleModelsError, match=r"vocabulary\[\d\]=\d in member 0 .* in member 1.*layer 'lookup'"):
        kmw.pack([numbers_model([5, 5, 7]), numbers_model([5, 5, 8])])


def test_other_document_frequencies_are_refused():
    first, second = (numbers_model(rows, idf=True) for rows in ([[5, 7], [5, 5]], [[5, 7], [7, 5]]))
    with pytest.raises(kmw.IncompatibleModelsError, match=r"idf_weights"):
        kmw.pack([first, second])


def test_one_vocabulary_that_came_in_two_ways_packs():
    adapted = numbers_model([5, 5, 7])
    words = adapted.get_layer("lookup").get_vocabulary(include_special_tokens=False)
    multi = kmw.pack([adapted, numbers_model([int(word) for word in words], adapt=False)])
    x = np.array([[5, 7, 9]])
    np.testing.assert_allclose(multi.predict(x)[:, 0], adapted.predict(x, verbose=0), rtol=1e-5)


def test_packing_leaves_the_layers_of_members_as_they_were():
    model = numbers_model([5, 5, 7])
    before = model.get_layer("lookup").get_config()
    kmw.pack([model])
    assert model.get_layer("lookup").get_config() == before
    assert before["vocabulary"] is None


@pytest.mark.parametrize("through_a_file", [False, True])
def test_members_come_out_with_their_vocabulary(through_a_file, tmp_path):
    model = numbers_model([5, 5, 7])
    multi = kmw.pack([model])
    if through_a_file:
        multi.save(tmp_path / "packed.keras")
        multi = keras.models.load_model(tmp_path / "packed.keras")
    x = np.array([[5, 7, 9], [7, 7, 5]])
    np.testing.assert_array_equal(multi.member(0).predict(x, verbose=0), model.predict(x, verbose=0))


def test_a_vocabulary_is_looked_up_once():
    multi = kmw.pack([numbers_model([5, 5, 7]) for _ in range(3)])
    assert multi.get_layer("lookup").output.shape == (None, 3)


@strings
def test_another_vocabulary_of_texts_is_refused():
    with pytest.raises(kmw.IncompatibleModelsError, match=r"vocabulary\[3\]='dog' in member 0 .*='cat' in member 1"):
        kmw.pack([texts_model(["the dog"]), texts_model(["the cat"])])


def test_another_vocabulary_in_a_file_is_refused(tmp_path):
    paths = [str(tmp_path / f"{i}.keras") for i in range(2)]
    for path, vocabulary in zip(paths, ([5, 5, 7], [5, 5, 8])):
        numbers_model(vocabulary).save(path)
    with pytest.raises(kmw.IncompatibleModelsError, match=r"vocabulary.txt\[\d\]='7' in member 0 .*='8' in member 1"):
        kmw.pack(paths)
    assert kmw.pack([paths[0], paths[0]]).num_members == 2


@strings
def test_the_self_check_reads_texts():
    """A packed model that answers another way is found out: strings are no reason to leave the check out."""
    models = [texts_model(["the dog ran"]) for _ in range(2)]
    models[1].set_weights([w + 0.5 for w in models[1].get_weights()])
    from keras_multiweight.packing.verify import Probe

    multi, probe = kmw.pack(models), Probe(models[0])
    for model in reversed(models):
        probe.record(model)
    with pytest.raises(RuntimeError, match="must give what its members give"):
        probe.check(multi)
