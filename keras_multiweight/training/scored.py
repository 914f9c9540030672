"""A Keras model whose losses and metrics are those of each member. N members, B rows."""

import keras
from keras import ops

from keras_multiweight.training.batches import MemberBatch
from keras_multiweight.training.scores import num_rows, of_each_member


class ScoredModel(keras.Model):
    """What Keras's training steps ask a model of outputs `(B, N, ...)` for: each member's loss, and the logs of all.

    `compile` of the subclass puts `losses`, `metrics` and the arguments it was `given` into `_compiled`.
    """

    def scores(self):
        """The members' losses and their metrics, if there are any."""
        own = [self._compiled.losses, self._compiled.metrics] if getattr(self, "_compiled", None) else []
        return [score for score in own if score is not None]

    @property
    def metrics(self):
        return [*super().metrics, *self.scores()]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss of each member, (N,): the compiled losses, regularisers and `add_loss`. The optimizer takes their sum."""
        tracked = self._compiled.losses
        losses = ops.zeros((self.num_members,))
        if self.loss is not None:
            batch = self._batch(y, y_pred, sample_weight)
            if self._compiled.metrics is not None:
                self._compiled.metrics.check(batch)  # before the weights change
            losses = tracked.compute(batch)
        for extra in self.losses:
            losses = losses + of_each_member(ops.cast(extra, losses.dtype), self.num_members)
        tracked.update_state(losses, num_rows(x))
        return losses

    def rows_open(self):
        """As `MemberLosses.rows_open`."""
        return self._compiled.losses.rows_open()

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if self._compiled.metrics is not None:
            self._compiled.metrics.update_state(self._batch(y, y_pred, sample_weight))
        return self.get_metrics_result()

    def get_metrics_result(self):
        results = super().get_metrics_result()
        self._compiled.names = list(results)
        return results

    def _returned(self, logs, return_dict):
        """A dict, or the values in the order of a single model's: the loss first."""
        values = [logs[name] for name in self._compiled.names]
        return logs if return_dict else values[0] if len(values) == 1 else values

    def _batch(self, y, y_pred, sample_weight):
        said = {key: self._compiled.given[key] for key in ("member_targets", "member_weights")}
        return MemberBatch(y, y_pred, sample_weight, self.output_names, self.num_members, **said)

    def member_metrics(self):
        """Every loss and metric of each member since the last reset, (N,) arrays by name; after `evaluate`, its own."""
        return {name: ops.convert_to_numpy(v) for s in self.scores() for name, v in s.member_results().items()}
