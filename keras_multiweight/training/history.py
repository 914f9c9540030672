"""What each member's losses and metrics were, epoch by epoch. N members."""

import warnings

import keras
import numpy as np
from keras import tree

from keras_multiweight.callers import stack_level


class MemberHistory(keras.callbacks.Callback):
    """Writes `multi.member_history`; the first callback of every `fit` of a `MultiModel`.

    At the end of an epoch, before other callbacks, `multi.member_logs` holds the epoch's numbers, (N,) for each name. Those
    of a member that rests, because it was stopped or is sick, stay as they were, and so count in the means.
    """

    running = None  # the `Running` of the same `fit`

    def on_train_begin(self, logs=None):
        self.model.member_history = {}
        self.known = self.model.optimizer.quarantined > 0
        if self.known.any():
            warnings.warn(
                f"Members {np.flatnonzero(self.known).tolist()} are not trained: their gradients were NaN or inf in an "
                "earlier fit. Give them good weights and compile again.",
                stacklevel=stack_level(),
            )

    def on_epoch_begin(self, epoch, logs=None):
        self.model.member_logs = {}
        self.resting = self.model.optimizer.resting
        self.ensembles = {}

    def on_test_begin(self, logs=None):
        self._read_training()  # whose numbers validation clears

    def on_test_end(self, logs=None):
        found = self.model.member_metrics()
        self.model.member_logs.update({f"val_{name}": values for name, values in found.items()})

    def on_epoch_end(self, epoch, logs=None):
        self._read_training()
        for name, values in self.model.member_logs.items():
            past = self.model.member_history.setdefault(name, np.zeros((0, *values.shape), values.dtype))
            self.model.member_logs[name] = values = self._kept(values, past)
            self.model.member_history[name] = np.concatenate([past, values[None]])
        if self.resting.any() and logs is not None:  # other callbacks get the same dict
            logs.update({name: _finite_mean(values) for name, values in self.model.member_logs.items()}, **self.ensembles)
        self._warn_of_sick(epoch)

    def _read_training(self):
        if "loss" not in self.model.member_logs:
            self.ensembles = self.running.put_back() if self.running else {}
            self.model.member_logs = {**self.model.member_metrics(), **self.model.member_logs}

    def _kept(self, values, past):
        """The numbers of an epoch, (N,), in which resting members keep those of the epoch before."""
        return np.where(self.resting, past[-1] if len(past) else np.nan, values) if self.resting.any() else values

    def _warn_of_sick(self, epoch):
        """Say once which members are no longer trained."""
        steps = self.model.optimizer.quarantined
        for i in np.flatnonzero((steps > 0) & ~self.known):
            warnings.warn(
                f"Member {i} is no longer trained: its gradient was NaN or inf at step {steps[i]} (epoch {epoch + 1}). "
                "The other members train on.",
                stacklevel=stack_level(),
            )
        self.known = steps > 0


def _finite_mean(values):
    return float(np.mean(values[np.isfinite(values)])) if np.isfinite(values).any() else np.nan


def with_history(callbacks):
    """The callbacks with `MemberHistory` first, as a list."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    return [MemberHistory(), *tree.flatten(callbacks or [])]
