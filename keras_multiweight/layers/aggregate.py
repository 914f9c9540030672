"""N members, one answer: their average, their vote, and how far they are apart. N members, B rows, C channels."""

import keras
import numpy as np
from keras import ops

from keras_multiweight.layers.plumbing import PACKAGE

CLASS_MEASURES = ("predictive_entropy", "mutual_information", "disagreement")
MEASURES = ("std", "variance", *CLASS_MEASURES)


class _OverMembers(keras.layers.Layer):
    """Reduces the member axis. A place is masked in the output if it is in every member."""

    def __init__(self, axis=1, **kwargs):
        super().__init__(**kwargs)
        self.axis = axis
        self.supports_masking = True

    def build(self, input_shape):
        self._member_axis(len(input_shape))
        self.built = True

    def _member_axis(self, rank):
        if not -rank <= self.axis < rank:
            raise ValueError(
                f"axis must be an axis of the inputs. Received: axis={self.axis} and inputs of rank {rank} "
                f"(layer '{self.name}')."
            )
        return self.axis % rank

    def _check_classes(self, rank):
        if self._member_axis(rank) == rank - 1:
            raise ValueError(
                "The last axis of the inputs must hold the classes, not the members. Received: "
                f"axis={self.axis} and inputs of rank {rank} (layer '{self.name}'). Give inputs (B, N, ..., C)."
            )

    def _without_members(self, shape):
        axis = self._member_axis(len(shape))
        return (*shape[:axis], *shape[axis + 1 :])

    def compute_output_shape(self, input_shape):
        return self._without_members(tuple(input_shape))

    def compute_output_spec(self, inputs, **kwargs):
        return keras.KerasTensor(self.compute_output_shape(tuple(inputs.shape)), self.compute_dtype)

    def compute_mask(self, inputs, previous_mask=None):
        axis = self._member_axis(len(inputs.shape))
        if previous_mask is None or len(previous_mask.shape) <= axis:
            return previous_mask
        return ops.any(previous_mask, axis=axis)

    def get_config(self):
        return {**super().get_config(), "axis": self.axis}


@keras.saving.register_keras_serializable(PACKAGE)
class EnsembleAverage(_OverMembers):
    """The average of the members' outputs, of each number or of probabilities.

    Sums are in float32 where the inputs are in half precision. Masked places are averaged like all others. Where a member
    answers NaN the average is NaN, as NumPy's, whatever the member's weight.

    Args:
        axis: int, where the members are.
        member_weights: N numbers, at least 0, which are divided by their sum. `None`: all alike.
        trainable_member_weights: bool. Learn them, as the softmax of N logits that start at `member_weights`.
        from_logits: bool. The inputs are logits: average, and return, the probabilities, which are their softmax over
            the last axis, or their sigmoid where that has length 1.

    Input shape:
        `(B, N, ..., C)`.

    Output shape:
        `(B, ..., C)`.

    Example:

    ```python
    x = keras.Input((30,))
    y = kmw.MultiDense(3, num_members=8, shared_input=True)(x)  # (B, 8, 3)
    model = keras.Model(x, kmw.EnsembleAverage(from_logits=True)(y))  # (B, 3), probabilities
    ```
    """

    def __init__(self, axis=1, member_weights=None, trainable_member_weights=False, from_logits=False, **kwargs):
        super().__init__(axis, **kwargs)
        self.member_weights = checked_weights(member_weights)
        self.trainable_member_weights = trainable_member_weights
        self.from_logits = from_logits
        if trainable_member_weights and member_weights is not None and 0.0 in self.member_weights:
            raise ValueError(
                "Trainable member_weights must be positive: a weight of 0 would have no gradient. "
                f"Received: member_weights={list(member_weights)}."
            )

    def build(self, input_shape):
        num_members = input_shape[self._member_axis(len(input_shape))]
        check_count(self.member_weights, num_members, self.name)
        if self.from_logits:
            self._check_classes(len(input_shape))
        if self.trainable_member_weights:
            self._add_logits(num_members)
        self.built = True

    def _add_logits(self, num_members):
        if num_members is None:
            raise ValueError(
                f"Trainable member weights need a known number of members. Received: None (layer '{self.name}')."
            )
        start = np.log(normalized(self.member_weights or [1.0] * num_members))
        self.member_logits = self.add_weight(
            name="member_logits",
            shape=(num_members,),
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(start, dtype=dtype),
            autocast=False,
        )

    def call(self, inputs):
        x = probabilities(inputs) if self.from_logits else wide(inputs)
        axis = self._member_axis(len(x.shape))
        weights = self._normalized_weights(x.dtype)
        x = ops.mean(x, axis=axis) if weights is None else ops.sum(x * _along(weights, axis, len(x.shape)), axis=axis)
        return ops.cast(x, self.compute_dtype)

    def _normalized_weights(self, dtype):
        if self.trainable_member_weights:
            return ops.softmax(ops.cast(self.member_logits, dtype))
        return None if self.member_weights is None else ops.convert_to_tensor(normalized(self.member_weights), dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "member_weights": self.member_weights and list(self.member_weights),
            "trainable_member_weights": self.trainable_member_weights,
            "from_logits": self.from_logits,
        }


@keras.saving.register_keras_serializable(PACKAGE)
class EnsembleVote(_OverMembers):
    """The class that most members choose; of classes with equally many votes the first.

    This is `VotingClassifier(voting="hard")` of scikit-learn. It has no gradient. Weighted votes are summed in float32.
    Probabilities or logits that are NaN are no vote.

    Args:
        axis: int, where the members are.
        num_classes: int. Needed where the inputs are integer class labels, which must be below it.
        member_weights: N numbers, at least 0: how much the vote of each member counts. `None`: all alike.

    Input shape:
        Class probabilities or logits `(B, N, ..., C)`; probabilities of the second of two classes `(B, N, ..., 1)`,
        which is chosen above 0.5; or integer labels `(B, N, ...)`.

    Output shape:
        int32 labels `(B, ...)`.

    Example:

    ```python
    EnsembleVote(num_classes=3)(np.array([[2, 1, 2], [1, 0, 2]]))  # [2, 0]
    ```
    """

    def __init__(self, axis=1, num_classes=None, member_weights=None, **kwargs):
        super().__init__(axis, **kwargs)
        self.num_classes = num_classes
        self.member_weights = checked_weights(member_weights)
        self.autocast = False  # half precision would make ties

    def build(self, input_shape):
        check_count(self.member_weights, input_shape[self._member_axis(len(input_shape))], self.name)
        self.built = True

    def call(self, inputs):
        axis = self._member_axis(len(inputs.shape))
        votes = self._votes(inputs)  # (B, N, ..., classes)
        if self.member_weights is not None:
            votes = votes * _along(ops.convert_to_tensor(self.member_weights, votes.dtype), axis, len(votes.shape))
        return ops.cast(ops.argmax(ops.sum(votes, axis=axis), axis=-1), "int32")

    def _votes(self, inputs):
        if _is_integer(inputs):
            self._check_labels()
            return ops.one_hot(ops.cast(inputs, "int32"), self.num_classes, dtype="float32")
        self._check_channels(tuple(inputs.shape))
        return one_hot_choices(inputs)

    def _check_labels(self):
        if self.num_classes is None:
            raise ValueError(
                f"Integer labels need num_classes. Received: num_classes=None (layer '{self.name}'). If the inputs are "
                "probabilities, give them as floats."
            )

    def _check_channels(self, shape):
        self._check_classes(len(shape))
        if self.num_classes not in (None, max(shape[-1], 2)):
            raise ValueError(
                f"Probabilities must have num_classes={self.num_classes} in their last axis. Received: shape {shape} "
                f"(layer '{self.name}'). If the inputs are labels, give them as integers."
            )

    def compute_output_spec(self, inputs):
        shape = tuple(inputs.shape)
        if _is_integer(inputs):
            self._check_labels()
            return keras.KerasTensor(self._without_members(shape), "int32")
        self._check_channels(shape)
        return keras.KerasTensor(self._without_members(shape)[:-1], "int32")

    def compute_output_shape(self, input_shape):
        """Of probabilities where `num_classes` is not given, or is the last dimension."""
        shape = self._without_members(tuple(input_shape))
        has_classes = self.num_classes is None or max(input_shape[-1] or 0, 2) == self.num_classes
        return shape[:-1] if has_classes and len(shape) > 1 else shape

    def get_config(self):
        weights = self.member_weights and list(self.member_weights)
        return {**super().get_config(), "num_classes": self.num_classes, "member_weights": weights}


@keras.saving.register_keras_serializable(PACKAGE)
class EnsembleSpread(_OverMembers):
    """How far the members are apart: the part of the uncertainty that more data would take away, and its kin.

    With p_ic the probability of class c from member i, p_c its mean over the members, and n_c how many choose c:

    | measure              | formula                                                     | of                  |
    |----------------------|-------------------------------------------------------------|---------------------|
    | `std`, `variance`    | `sum_i (x_i - mean)^2 / (N - ddof)`, and its root           | any numbers         |
    | `predictive_entropy` | `H = -sum_c p_c log p_c`                                    | class probabilities |
    | `mutual_information` | `H - mean_i (-sum_c p_ic log p_ic)`, at least 0             | class probabilities |
    | `disagreement`       | `1 - sum_c n_c (n_c - 1) / (N (N - 1))`, the share of pairs | class probabilities |

    Entropies are in nats. Where a member answers NaN every measure is NaN. Variance and predictive entropy of an ensemble:
    Lakshminarayanan, Pritzel and Blundell, "Simple and scalable predictive uncertainty estimation using deep ensembles",
    2017. Mutual information: Houlsby et al., "Bayesian active learning for classification and preference learning" (BALD),
    2011; Gal, "Uncertainty in deep learning", 2016.

    Args:
        axis: int, where the members are.
        measure: One of the above.
        from_logits: bool. The inputs are logits; the measure is of their softmax, or their sigmoid where C is 1.
        ddof: int, for `std` and `variance`: 1 for the unbiased variance.

    Input shape:
        `(B, N, ..., C)`. For the measures of classes C = 1 means the probability of the second of two classes.

    Output shape:
        `(B, ..., C)` for `std` and `variance`, else `(B, ...)`.

    Example:

    ```python
    outputs = model.outputs[0]  # (B, 8, 10), probabilities
    doubt = keras.Model(model.inputs, kmw.layers.EnsembleSpread(measure="mutual_information")(outputs))  # (B,)
    ```
    """

    def __init__(self, axis=1, measure="std", from_logits=False, ddof=0, **kwargs):
        super().__init__(axis, **kwargs)
        if measure not in MEASURES:
            raise ValueError(f"measure must be one of {MEASURES}. Received: measure={measure!r}.")
        self.measure = measure
        self.from_logits = from_logits
        self.ddof = ddof

    def build(self, input_shape):
        num_members = input_shape[self._member_axis(len(input_shape))]
        if self.from_logits or self.measure in CLASS_MEASURES:
            self._check_classes(len(input_shape))
        if num_members is None or not 0 <= self.ddof < num_members:
            raise ValueError(
                f"There must be more members than ddof={self.ddof}, which must be at least 0. Received: {num_members} "
                f"members (layer '{self.name}')."
            )
        self.built = True

    def call(self, inputs):
        axis = self._member_axis(len(inputs.shape))
        x = probabilities(inputs) if self.from_logits else wide(inputs)
        return ops.cast(getattr(self, f"_{self.measure}")(x, axis), self.compute_dtype)

    def _variance(self, x, axis):
        num_members = x.shape[axis]
        return ops.var(x, axis=axis) * (num_members / (num_members - self.ddof))

    def _std(self, x, axis):
        variance = self._variance(x, axis)
        equal = variance <= 0  # the root has no gradient at 0
        return ops.where(equal, 0.0, ops.sqrt(ops.where(equal, 1.0, variance)))

    def _predictive_entropy(self, x, axis):
        return entropy(ops.mean(both_classes(x), axis=axis))

    def _mutual_information(self, x, axis):
        gain = self._predictive_entropy(x, axis) - ops.mean(entropy(both_classes(x)), axis=axis)
        return ops.where(gain < 0, 0.0, gain)  # the maximum of XLA on TensorFlow is not NaN where this is

    def _disagreement(self, x, axis):
        num_members = x.shape[axis]
        counts = ops.sum(one_hot_choices(x), axis=axis)
        agreeing = ops.sum(counts * (counts - 1), axis=-1) / max(num_members * (num_members - 1), 1)
        found = 1.0 - agreeing if num_members > 1 else agreeing
        return ops.where(ops.any(ops.isnan(x), axis=(axis, -1)), np.nan, found)

    def compute_output_shape(self, input_shape):
        shape = self._without_members(tuple(input_shape))
        return shape[:-1] if self.measure in CLASS_MEASURES else shape

    def get_config(self):
        options = {"measure": self.measure, "from_logits": self.from_logits, "ddof": self.ddof}
        return {**super().get_config(), **options}


def wide(x):
    """In float32 at least."""
    return ops.cast(x, keras.backend.result_type(x.dtype, "float32"))


def probabilities(logits):
    logits = wide(logits)
    return ops.sigmoid(logits) if logits.shape[-1] == 1 else ops.softmax(logits, axis=-1)


def both_classes(p):
    """(..., 1) -> (..., 2), the probability of a class to those of both; other numbers of classes stay."""
    return ops.concatenate([1.0 - p, p], axis=-1) if p.shape[-1] == 1 else p


def entropy(p):
    """`(..., C)` to `(...)`, in nats; a probability of 0 adds 0."""
    none = p <= 0
    return -ops.sum(ops.where(none, 0.0, p * ops.log(ops.where(none, 1.0, p))), axis=-1)


def one_hot_choices(p):
    """The class of each row `(..., C)`, one-hot; `(..., 1)` becomes `(..., 2)`. None, zeros, where a number is NaN."""
    choices = ops.cast(p[..., 0] > 0.5, "int32") if p.shape[-1] == 1 else ops.argmax(p, axis=-1)
    choices = ops.where(ops.any(ops.isnan(p), axis=-1), -1, choices)
    return ops.one_hot(choices, max(p.shape[-1], 2), dtype="float32")


def checked_weights(member_weights):
    """Weights of the members as a tuple; `None` stays."""
    if member_weights is None:
        return None
    weights = np.asarray(member_weights, "float64")
    if weights.ndim != 1 or not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise ValueError(
            "member_weights must be a list of finite numbers, at least 0, not all 0. "
            f"Received: member_weights={member_weights!r}."
        )
    return tuple(weights.tolist())


def normalized(member_weights):
    return np.asarray(member_weights) / np.sum(member_weights)


def check_count(member_weights, num_members, name):
    if member_weights is not None and len(member_weights) != num_members:
        raise ValueError(
            f"member_weights must have one weight for each of the {num_members} members. "
            f"Received: {len(member_weights)} (layer '{name}')."
        )


def _along(weights, axis, rank):
    """(N,) -> (1, ..., N, ..., 1)"""
    return ops.reshape(weights, [-1 if i == axis else 1 for i in range(rank)])


def _is_integer(x):
    return not keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))
