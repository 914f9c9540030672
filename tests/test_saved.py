"""Packed models that earlier releases saved are read, and answer as they did then."""

import importlib.util
import pathlib

import keras
import numpy as np
import oracle
import pytest

SAVED = pathlib.Path(__file__).parent / "saved"


def inputs():
    spec = importlib.util.spec_from_file_location("make", SAVED / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.inputs()


@pytest.mark.parametrize("path", sorted(SAVED.glob("*.keras")), ids=lambda path: path.stem)
def test_a_saved_pack_answers_as_it_did(path):
    multi = keras.models.load_model(path)
    oracle.assert_close(multi.predict(inputs()), np.load(path.with_suffix(".npy")))
    assert len(multi.unpack()) == multi.num_members == 3
