"""Members spread over four devices, against one device: Keras distributes models on JAX, in a process of its own."""

import os
import subprocess
import sys

import keras
import pytest

import keras_multiweight as kmw

PROGRAM = """
import keras, numpy as np, keras_multiweight as kmw
from keras import layers as k

def build():
    return keras.Sequential([keras.Input((4,)), k.Dense(6, activation="tanh"), k.BatchNormalization(), k.Dense(1)])

def trained(distribution):
    keras.distribution.set_distribution(distribution)
    multi = kmw.replicate(build, 8, seed=0)
    multi.compile(keras.optimizers.Adam(0.01), "mse", steps_per_execution=4)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 4)).astype("float32"), rng.normal(size=(64, 8, 1)).astype("float32")
    averaging = kmw.merging.PeriodicModelAveraging(3, alpha=0.5)
    multi.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=[averaging])
    return multi, [w for i in range(8) for w in multi.member_weights(i)], multi.predict(x)

_, alone, answers = trained(None)
multi, spread, received = trained(kmw.MemberParallel(8))
assert len(keras.distribution.list_devices()) == 4
for variable in multi.trainable_variables:
    shards = variable.value.addressable_shards
    assert len(shards) == 4 and shards[0].data.shape[0] == 2, (variable.path, shards)
for a, b in zip(alone, spread, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
np.testing.assert_allclose(received, answers, rtol=1e-4, atol=1e-6)
"""


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="keras.distribution spreads models on JAX only")
def test_members_spread_over_devices_train_as_on_one():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], check=True, env={**os.environ, "XLA_FLAGS": flags})


def test_devices_must_share_the_members_evenly():
    with pytest.raises(ValueError, match=r"multiple of the number of devices. Received: num_members=3 and 2 devices"):
        kmw.MemberParallel(3, devices=["cpu:0", "cpu:1"])
