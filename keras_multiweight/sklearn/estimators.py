"""`MultiBaggingClassifier` and `MultiBaggingRegressor`: scikit-learn's bagging, with Keras networks in one graph."""

import warnings

import keras
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from keras_multiweight.bagging.oob import masked_mean
from keras_multiweight.bagging.resampling import Bootstrap, checked_count
from keras_multiweight.callers import stack_level
from keras_multiweight.packing.replicate import replicate
from keras_multiweight.packing.select import join_members
from keras_multiweight.seeding import seeded
from keras_multiweight.sklearn.networks import MLP
from keras_multiweight.sklearn.trainers import Trainers

_PARAMETERS = """
    Args:
        build: `build(num_features, num_outputs)`, which builds a Keras model. Left out, `MLP()`. It must be a function of
            a module, not a lambda, for the estimator to be pickled.
        n_estimators: int, N.
        max_samples: int or float, rows drawn for each network; None draws as many as there are.
        max_features: int or float, features drawn for each network. With fewer than all, the networks read
            `(rows, N, features drawn)` numbers.
        bootstrap: bool. Draw rows with replacement.
        bootstrap_features: bool. Draw features with replacement.
        oob_score: bool, or a function `metric(y, answers)`: compute `oob_score_`.
        warm_start: bool. Keep the networks of the last `fit` and train the missing ones. They end as they would have in
            one `fit` of all.
        random_state: int, RandomState or None: of the draws, the initial weights and the order of the rows. Runs of one
            seed are equal on one machine and backend.
        verbose: int, for Keras.
        optimizer: Name, or an unused Keras optimizer, for all networks.
        learning_rate: float. Left out, that of the optimizer.
        loss: Keras loss. Left out, cross-entropy for classes and the mean squared error for numbers.
        batch_size: int, at most the number of rows.
        epochs: int.
        compile_args: Dict of more arguments of `MultiModel.compile`: `metrics`, ... `{"steps_per_execution": 1}` compiles
            faster and trains slower than the default, which is "auto".
        fit_args: Dict of more arguments of Keras's `fit`: `callbacks`, `validation_split`, ...

    Attributes:
        multi_: The MultiModel of all networks.
        estimators_: List of the networks, as Keras models.
        estimators_samples_: List of the rows that each drew.
        estimators_features_: List of the features that each reads.
        bootstrap_: The `kmw.Bootstrap`.
        member_history_: Dict of names to `(epochs, N)`, of the last `fit`.
        oob_score_: float."""


class _MultiBagging(BaseEstimator):
    def __init__(
        self,
        build=None,
        n_estimators=10,
        *,
        max_samples=None,
        max_features=1.0,
        bootstrap=True,
        bootstrap_features=False,
        oob_score=False,
        warm_start=False,
        random_state=None,
        verbose=0,
        optimizer="adam",
        learning_rate=None,
        loss=None,
        batch_size=32,
        epochs=100,
        compile_args=None,
        fit_args=None,
    ):
        self.build = build
        self.n_estimators = n_estimators
        self.max_samples = max_samples
        self.max_features = max_features
        self.bootstrap = bootstrap
        self.bootstrap_features = bootstrap_features
        self.oob_score = oob_score
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.loss = loss
        self.batch_size = batch_size
        self.epochs = epochs
        self.compile_args = compile_args
        self.fit_args = fit_args

    def fit(self, X, y, sample_weight=None):
        """Train all networks, each on its own draw of the rows.

        Args:
            X: `(rows, features)`.
            y: Targets.
            sample_weight: `(rows,)`: how much each row counts, once it is drawn.
        """
        X, y = validate_data(self, X, y, dtype="float32", multi_output=True, y_numeric=self._y_numeric)
        targets = self._encode(y)
        if sample_weight is not None:
            sample_weight = _checked_weights(sample_weight, X)
        self._check_parameters()
        before = getattr(self, "multi_", None) if self.warm_start else None
        missing = self.n_estimators - (before.num_members if before is not None else 0)
        if missing < 0:
            raise ValueError(
                f"With warm_start n_estimators must be at least the {before.num_members} networks that there are. "
                f"Received: n_estimators={self.n_estimators}."
            )
        if missing == 0:
            warnings.warn("There are n_estimators networks already: warm_start has trained none.", stacklevel=stack_level())
            return self
        if before is None:
            self._seeds = check_random_state(self.random_state).randint(2**31 - 1, size=3)
        self._draw(*X.shape)
        new = self._train(X, targets, sample_weight, missing)
        self.multi_ = new if before is None else join_members(before, new)
        if self.oob_score:
            self._set_oob_score(X, y)
        return self

    def _check_parameters(self):
        for name in ("n_estimators", "batch_size", "epochs"):
            checked_count(getattr(self, name), name)
        if self.build is not None and not callable(self.build):
            raise ValueError(
                "build must be None or a function build(num_features, num_outputs) that gives a Keras model. "
                f"Received: build={self.build!r}."
            )
        if not (callable(self.oob_score) or isinstance(self.oob_score, (bool, np.bool_))):
            raise ValueError(
                f"oob_score must be a bool or a function metric(y, answers). Received: oob_score={self.oob_score!r}."
            )
        if self.oob_score and not self.bootstrap and self.max_samples in (None, 1.0):
            raise ValueError("oob_score needs rows that are left out. Received: bootstrap=False with all rows.")

    def _draw(self, rows, features):
        self.bootstrap_ = Bootstrap(
            rows,
            self.n_estimators,
            rows if self.max_samples is None else self.max_samples,
            replace=self.bootstrap,
            num_features=features,
            max_features=self.max_features,
            bootstrap_features=self.bootstrap_features,
            seed=int(self._seeds[0]),
        )

    def _train(self, X, targets, sample_weight, count):
        """A MultiModel of the last `count` networks, trained."""
        drawn = self.bootstrap_.features
        network = self._network(X.shape[1] if drawn is None else drawn.shape[1])
        options = {"seed": int(self._seeds[1]), "member_inputs": drawn is not None}
        multi = replicate(network, self.n_estimators, **options).select(range(self.n_estimators)[-count:])
        x = X if drawn is None else self.bootstrap_.take_features(X)[:, -count:]
        weights = self.bootstrap_.weights[:, -count:]
        if sample_weight is not None:
            weights = weights * sample_weight[:, None]
        loss = self.loss or self._default_loss(multi)
        compile_args = {"loss": loss, "steps_per_execution": "auto", **(self.compile_args or {})}
        options = {"batch_size": min(self.batch_size, len(X)), "epochs": self.epochs, "verbose": self.verbose}
        options |= self.fit_args or {}
        keep = not options.get("callbacks")  # which may be part of what is compiled
        with self._trainers().borrowed(multi, self._optimizer, keep, **compile_args) as trainer:
            with seeded(int(self._seeds[2])):
                trainer.fit(x, targets, sample_weight=weights, **options)
            self.member_history_ = dict(trainer.member_history)  # Keras tracks that of a model
        return multi

    def _trainers(self):
        """The compiled models, which clones of this estimator train with too."""
        return self.__dict__.setdefault("_shared_trainers", Trainers())

    def __sklearn_clone__(self):
        copy = super().__sklearn_clone__()
        copy._shared_trainers = self._trainers()
        return copy

    def __getstate__(self):
        return {key: value for key, value in super().__getstate__().items() if key != "_shared_trainers"}

    def _network(self, num_features):
        build = MLP() if self.build is None else self.build
        options = {"output_activation": self._output_activation} if isinstance(build, MLP) else {}
        return lambda: build(num_features, self._num_outputs, **options)

    def _optimizer(self):
        config = keras.optimizers.serialize(keras.optimizers.get(self.optimizer))
        if self.learning_rate is not None:
            config["config"]["learning_rate"] = self.learning_rate
        return keras.optimizers.deserialize(config)

    def _answers(self, X):
        """The answers of all networks, `(rows, N, outputs)`."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype="float32", reset=False)
        return self.multi_.predict(self.bootstrap_.take_features(X)).astype("float64")

    @property
    def estimators_(self):
        return self.multi_.unpack()

    @property
    def estimators_samples_(self):
        return self.bootstrap_.indices

    @property
    def estimators_features_(self):
        drawn = self.bootstrap_.features
        return [np.arange(self.n_features_in_)] * len(self.estimators_samples_) if drawn is None else list(drawn)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "multi_")


def _checked_weights(sample_weight, X):
    weights = check_array(sample_weight, ensure_2d=False, dtype="float32", input_name="sample_weight")
    if weights.ndim != 1:
        raise ValueError(f"Sample weights must be 1D array or scalar. Received: shape {weights.shape}.")
    check_consistent_length(X, weights)
    if not weights.any():
        raise ValueError("Some row must count. Received: sample weights that are all zero.")
    return weights


class MultiBaggingClassifier(ClassifierMixin, _MultiBagging):
    """Bagging of Keras classifiers, trained in one `fit`, with the parameters of scikit-learn's `BaggingClassifier`.

    The networks give probabilities: `(rows, classes)`, or `(rows, 1)` of the second of two classes.

    Example:

    ```python
    model = kmw.sklearn.MultiBaggingClassifier(kmw.sklearn.MLP((10, 10)), 50, oob_score=True, random_state=0)
    model.fit(X, y).oob_score_
    ```
    """

    __doc__ = f"""{__doc__}{_PARAMETERS}
        classes_: The labels of the classes.
        n_classes_: int.
        oob_decision_function_: `(rows, classes)`, NaN in rows that every network drew.
    """

    _y_numeric = False
    _output_activation = "softmax"

    def _encode(self, y):
        y = np.asarray(y)
        check_classification_targets(y)
        if y.ndim > 1:
            y = column_or_1d(y, warn=True)
        self.classes_, codes = np.unique(y, return_inverse=True)
        self.n_classes_ = len(self.classes_)
        return codes

    @property
    def _num_outputs(self):
        return max(self.n_classes_, 2)

    def _default_loss(self, multi):
        outputs = multi.output_shape[-1]
        if outputs not in (self._num_outputs, 1) or (outputs == 1 and self.n_classes_ > 2):
            raise ValueError(
                f"A network must give probabilities of {self._num_outputs} classes. Received: an output of {outputs}."
            )
        return "binary_crossentropy" if outputs == 1 else "sparse_categorical_crossentropy"

    def predict_proba(self, X):
        """The mean over the networks of their probabilities, `(rows, classes)`."""
        return self._shares(self._answers(X)).mean(axis=1)

    def predict_log_proba(self, X):
        """The logarithm of `predict_proba`."""
        return np.log(self.predict_proba(X))

    def predict(self, X):
        """The class of the largest mean probability, `(rows,)`."""
        shares = self.predict_proba(X)
        return self.classes_[shares.argmax(axis=1)]

    def _shares(self, answers):
        """Answers `(rows, N, outputs)` as probabilities of the classes, whose sum is 1 to the last bit of a double."""
        if (answers < 0).any() or (answers > 1 + 1e-5).any():
            raise ValueError(
                "The networks must give probabilities: let `build` end them in a softmax or sigmoid. "
                f"Received: answers from {answers.min():.3g} to {answers.max():.3g}."
            )
        if answers.shape[-1] == 1:
            answers = np.concatenate([1.0 - answers, answers], axis=-1)
        answers = answers[..., : self.n_classes_]  # one class is trained as two
        return answers / answers.sum(axis=-1, keepdims=True)

    def _set_oob_score(self, X, y):
        shares = masked_mean(self._shares(self._answers(X)), self.bootstrap_.oob_mask)
        there = self.bootstrap_.oob_mask.any(axis=1)
        metric = self.oob_score if callable(self.oob_score) else accuracy_score
        self.oob_decision_function_ = shares
        self.oob_score_ = metric(np.ravel(y)[there], self.classes_[shares[there].argmax(axis=1)])


class MultiBaggingRegressor(RegressorMixin, _MultiBagging):
    """Bagging of Keras networks for numbers, trained in one `fit`, with the parameters of scikit-learn's `BaggingRegressor`.

    Example:

    ```python
    model = kmw.sklearn.MultiBaggingRegressor(kmw.sklearn.MLP((32, 32)), 25, random_state=0)
    model.fit(X, y).predict(X)
    ```
    """

    __doc__ = f"""{__doc__}{_PARAMETERS}
        oob_prediction_: `(rows,)` or `(rows, targets)`, NaN in rows that every network drew.
    """

    _y_numeric = True
    _output_activation = None

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _encode(self, y):
        y = np.asarray(y, "float32")
        self._target_shape = y.shape[1:]
        return y.reshape(len(y), -1)

    @property
    def _num_outputs(self):
        return int(np.prod(self._target_shape, dtype=int))

    def _default_loss(self, multi):
        return "mse"

    def predict(self, X):
        """The mean over the networks, `(rows,)` or `(rows, targets)`."""
        return self._shaped(self._answers(X).mean(axis=1))

    def _shaped(self, answers):
        return answers.reshape(len(answers), *self._target_shape)

    def _set_oob_score(self, X, y):
        means = self._shaped(masked_mean(self._answers(X), self.bootstrap_.oob_mask))
        there = self.bootstrap_.oob_mask.any(axis=1)
        metric = self.oob_score if callable(self.oob_score) else r2_score
        self.oob_prediction_ = means
        self.oob_score_ = metric(y[there], means[there])
