"""How do networks that are averaged while they train spread over several devices?

Keras distributes models on JAX. Four devices of one CPU stand for four accelerators: each holds two of eight networks, which
train on parts of the data of their own. They meet only where they are averaged, once an epoch.

    python examples/average_across_devices.py
"""

import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_multiweight as kmw
from keras_multiweight import merging


def network():
    return keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(10)])


def main(num_members=8, epochs=20):
    """Where the members are, and the accuracy on test images of the network that they become."""
    x, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split((x / 16).astype("float32"), y, test_size=0.3, random_state=0)

    keras.distribution.set_distribution(kmw.MemberParallel(num_members))  # before the model is made
    multi = kmw.replicate(network, num_members, seed=0, member_inputs=True)
    for i in range(1, num_members):
        multi.set_member_weights(i, multi.member_weights(0))  # members that are averaged begin at one point
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    multi.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, member_targets=True)
    averaging = merging.PeriodicModelAveraging(1, unit="epoch", seed=0)
    multi.fit(x, y, batch_size=16, epochs=epochs, verbose=0, callbacks=[averaging])

    shards = multi.trainable_variables[0].value.addressable_shards
    for shard in shards:
        print(f"{shard.device}: members {shard.index[0].start} to {shard.index[0].stop - 1}")
    keras.distribution.set_distribution(None)
    merged = merging.uniform_soup(multi)
    accuracy = float(np.mean(merged.predict(x_test, verbose=0).argmax(axis=-1) == y_test))
    print(f"accuracy of the one network that they are: {accuracy:.4f}")
    return len(shards), accuracy


if __name__ == "__main__":
    main()
