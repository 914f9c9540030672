"""Five small CNNs lie in a folder: how good are they together, in one model that is made from the files?"""

import pathlib
import tempfile

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_multiweight as kmw


def digits():
    """Training and test images, 8x8, and labels."""
    x, y = load_digits(return_X_y=True)
    return train_test_split(x.reshape(-1, 8, 8, 1).astype("float32") / 16, y, test_size=0.5, random_state=0)


def trained_cnn(x, y, epochs):
    layers = keras.layers
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(8, 3, activation="relu"), layers.MaxPooling2D()])
    model.add(layers.Flatten())
    model.add(layers.Dense(10, activation="softmax"))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=epochs, verbose=0)
    return model


def accuracy(probabilities, y):
    return float(np.mean(np.argmax(probabilities, axis=-1) == y))


def main(num_members=5, epochs=6):
    """The accuracy on test images: the mean over the members, and that of their average."""
    keras.utils.set_random_seed(0)
    x, x_test, y, y_test = digits()
    with tempfile.TemporaryDirectory() as folder:
        for i in range(num_members):
            trained_cnn(x, y, epochs).save(pathlib.Path(folder) / f"cnn_{i}.keras")
        multi = kmw.pack(f"{folder}/*.keras")

    answers = multi.predict(x_test)  # (B, N, 10)
    accuracies = [accuracy(answers[:, i], y_test) for i in range(num_members)]
    best = int(np.argmax(accuracies))
    alone = multi.member(best)  # an ordinary Keras model again
    print(f"The best, member {best}, taken out again: {accuracy(alone.predict(x_test, verbose=0), y_test):.4f}")
    mean_member, ensemble = np.mean(accuracies), accuracy(multi.average().predict(x_test, verbose=0), y_test)
    print(f"Accuracy on test images of {num_members} CNNs, on average: {mean_member:.4f}")
    print(f"Accuracy on test images of their average: {ensemble:.4f}")
    return mean_member, ensemble


if __name__ == "__main__":
    main()
