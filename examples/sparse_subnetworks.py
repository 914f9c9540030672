"""Every feature has its own weight and bias, and there are several such sets: how many weights does one model need?

A dense layer would hold a weight from each feature to each other one. `MultiSparseLinear` holds those that exist.
"""

import keras
import numpy as np

import keras_multiweight as kmw

SAMPLES = [[3, 7], [9, 4]]
WEIGHT_SETS = [  # a member a line, (weight, bias) of each feature; add lines for more members
    [[2, 7], [9, 5]],
    [[8, 6], [6, 3]],
]


def model_of(weight_sets):
    """A model that answers with every weight set: (B, features) -> (B, N, features)."""
    kernel, bias = np.moveaxis(np.array(weight_sets, "float32"), -1, 0)  # each (N, features)
    inputs = keras.Input((kernel.shape[1],))
    layer = kmw.MultiSparseLinear(num_members=len(kernel), shared_input=True)
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights([kernel, bias])
    return model


def main(samples=SAMPLES, weight_sets=WEIGHT_SETS):
    """The answers, members first: (N, samples, features)."""
    model = model_of(weight_sets)
    answers = model.predict(np.array(samples, "float32"), verbose=0)  # (samples, N, features)
    answers = np.swapaxes(answers, 0, 1)
    for member, answer in enumerate(answers):
        print(f"Member {member}: {answer.tolist()}")
    print(f"Weights in all: {model.count_params()}")
    return answers


if __name__ == "__main__":
    main()
