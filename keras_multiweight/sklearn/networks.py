"""Networks for the estimators, whose parameters can be searched."""

import keras
import numpy as np
from sklearn.base import BaseEstimator


class MLP(BaseEstimator):
    """Builds multilayer perceptrons; as `build` of an estimator its parameters are `build__hidden_layer_sizes`, ...

    Args:
        hidden_layer_sizes: Tuple of ints, or an int for one layer, as in scikit-learn's `MLPClassifier`.
        activation: Of the hidden layers.
        output_activation: Of the last layer; `"softmax"` or, for one output, `"sigmoid"` to classify. `"auto"` is softmax
            for a classifier and none for a regressor.
        dropout: float, behind each hidden layer.

    Example:

    ```python
    MLP((30, 30))(num_features=8, num_outputs=3, output_activation="softmax")  # a Keras model
    ```
    """

    def __init__(self, hidden_layer_sizes=(100,), activation="relu", output_activation="auto", dropout=0.0):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.output_activation = output_activation
        self.dropout = dropout

    def __call__(self, num_features, num_outputs, output_activation=None):
        inputs = x = keras.Input((num_features,))
        for units in np.atleast_1d(self.hidden_layer_sizes).tolist():
            x = keras.layers.Dense(units, activation=self.activation)(x)
            if self.dropout:
                x = keras.layers.Dropout(self.dropout)(x)
        last = output_activation if self.output_activation == "auto" else self.output_activation
        return keras.Model(inputs, keras.layers.Dense(num_outputs, activation=last)(x), name="mlp")
