"""Callbacks that act on each member alone. N members."""

import csv
import pathlib

import keras
import numpy as np


class MemberCallback(keras.callbacks.Callback):
    """Base of callbacks that read `multi.member_logs`, (N,) numbers by name, at the end of an epoch.

    Args:
        monitor: Name of a loss or metric, `"val_loss"`, or a list of one a member.
        mode: "min", "max", or "auto": "max" for names with "acc" or "auc" in them.
        min_delta: float, or a list of one a member: what counts as better.
    """

    def __init__(self, monitor="val_loss", mode="auto", min_delta=0.0):
        super().__init__()
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode must be 'auto', 'min' or 'max'. Received: mode={mode!r}.")
        self.monitor, self.mode, self.min_delta = monitor, mode, min_delta

    def on_train_begin(self, logs=None):
        members = self.model.num_members
        self.best = np.full(members, np.inf)  # of the monitored numbers, turned so that less is better
        self.wait = np.zeros(members, int)

    def better(self):
        """Which members have a new best, (N,); counts the epochs that the others have waited."""
        values = self._values()
        better = values < self.best - np.abs(np.broadcast_to(self.min_delta, values.shape))
        self.best = np.where(better, values, self.best)
        self.wait = np.where(better, 0, self.wait + 1)
        return better

    def _values(self):
        members, logs = self.model.num_members, self.model.member_logs
        names = [self.monitor] * members if isinstance(self.monitor, str) else self.monitor
        missing = sorted({name for name in names if name not in logs})
        if missing or len(names) != members:
            raise ValueError(
                f"monitor must name losses or metrics among {sorted(logs)}, one for all or one a member ({members}). "
                f"Received: monitor={self.monitor!r}."
            )
        return np.array([logs[name][i] * self._sign(name) for i, name in enumerate(names)])

    def _sign(self, name):
        is_max = self.mode == "max" or (self.mode == "auto" and ("acc" in name or "auc" in name.lower()))
        return -1.0 if is_max else 1.0


class MemberEarlyStopping(MemberCallback):
    """Stops each member when its own numbers no longer get better; training ends when all have stopped.

    A stopped member no longer changes. At the end it has the weights of its best epoch, with `restore_best_weights`, or
    those that it was stopped with.

    Args:
        monitor, mode, min_delta: As for `MemberCallback`.
        patience: int, or a list of one a member: epochs without a better number before a member stops.
        restore_best_weights: bool.

    Attributes:
        stopped_epoch: (N,): the epoch after which each member stopped, from 0, or -1.
        best_epoch: (N,).

    Example:

    ```python
    stopping = kmw.callbacks.MemberEarlyStopping(patience=5)
    multi.fit(x, y, epochs=1000, validation_split=0.2, callbacks=[stopping])
    stopping.best_epoch  # (N,)
    ```
    """

    def __init__(self, monitor="val_loss", patience=0, restore_best_weights=True, **kwargs):
        super().__init__(monitor, **kwargs)
        self.patience, self.restore_best_weights = patience, restore_best_weights

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.stopped_epoch = np.full(self.model.num_members, -1)
        self.best_epoch = np.zeros(self.model.num_members, int)
        self._kept = {}  # the weights that a member is to end with

    def on_epoch_end(self, epoch, logs=None):
        running = self.stopped_epoch < 0
        better = self.better()
        for i in np.flatnonzero(running & better):
            self.best_epoch[i] = epoch
            if self.restore_best_weights:
                self._kept[i] = self.model.member_weights(i)
        for i in np.flatnonzero(running & (self.wait >= np.maximum(np.broadcast_to(self.patience, running.shape), 1))):
            self.stopped_epoch[i] = epoch
            self._kept.setdefault(i, self.model.member_weights(i))
        self.model.optimizer.active.assign((self.stopped_epoch < 0).astype("int32"))
        self.model.stop_training = bool((self.stopped_epoch >= 0).all())

    def on_train_end(self, logs=None):
        for i, weights in self._kept.items():
            if self.restore_best_weights or self.stopped_epoch[i] >= 0:  # moving statistics follow the data to the end
                self.model.set_member_weights(i, weights)


class MemberReduceLROnPlateau(MemberCallback):
    """Lowers the learning rate of each member when its own numbers no longer get better.

    The model must be compiled with one optimizer a member, because one optimizer has one learning rate.

    Args:
        monitor, mode, min_delta: As for `MemberCallback`.
        factor: float, by which a learning rate is multiplied.
        patience: int, or a list of one a member.
        min_lr: float.
    """

    def __init__(self, monitor="val_loss", factor=0.1, patience=10, min_lr=0.0, **kwargs):
        super().__init__(monitor, **kwargs)
        self.factor, self.patience, self.min_lr = factor, patience, min_lr

    def on_epoch_end(self, epoch, logs=None):
        self.better()
        due = self.wait >= np.broadcast_to(self.patience, self.wait.shape)
        if due.any():
            rates = keras.ops.convert_to_numpy(self.model.optimizer.member_learning_rates)
            lowered = np.maximum(rates * self.factor, np.minimum(self.min_lr, rates))
            self.model.optimizer.member_learning_rates = np.where(due, lowered, rates)
            self.wait = np.where(due, 0, self.wait)


class MemberCheckpoint(MemberCallback):
    """Saves each member, when its own numbers get better, as an ordinary Keras model.

    Args:
        filepath: Path with `{member}` in it: `"best/{member}.keras"`.
        monitor, mode, min_delta: As for `MemberCallback`.
    """

    def __init__(self, filepath, monitor="val_loss", **kwargs):
        super().__init__(monitor, **kwargs)
        if "{member}" not in str(filepath):
            raise ValueError(f"filepath must have {{member}} in it, one file a member. Received: filepath='{filepath}'.")
        self.filepath = str(filepath)

    def on_epoch_end(self, epoch, logs=None):
        for i in np.flatnonzero(self.better()):
            path = pathlib.Path(self.filepath.format(member=i))
            path.parent.mkdir(parents=True, exist_ok=True)
            self.model.member(i).save(path)


class MemberCSVLogger(keras.callbacks.Callback):
    """Writes every loss and metric of each member to a CSV file: a row an epoch, columns `loss_0, loss_1, ...`.

    Args:
        filename: Path of the file, which is written anew.
    """

    def __init__(self, filename):
        super().__init__()
        self.filename = filename

    def on_epoch_end(self, epoch, logs=None):
        columns = {f"{name}_{i}": v for name, values in self.model.member_logs.items() for i, v in enumerate(values)}
        is_first = not hasattr(self, "_names")
        self._names = list(columns) if is_first else self._names
        with open(self.filename, "w" if is_first else "a", newline="") as file:
            writer = csv.DictWriter(file, ["epoch", *self._names], extrasaction="ignore")
            if is_first:
                writer.writeheader()
            writer.writerow({"epoch": epoch, **columns})


class MemberTensorBoard(keras.callbacks.Callback):
    """Writes every loss and metric of each member for TensorBoard: a run a member, `log_dir/member_0`, ...

    As `keras.callbacks.TensorBoard`, which needs TensorFlow on every backend; `learning_rate` is the mean of the members'.

    Args:
        log_dir: Path of the folder.
    """

    def __init__(self, log_dir):
        super().__init__()
        self.log_dir = pathlib.Path(log_dir)

    def on_train_begin(self, logs=None):
        folders = [self.log_dir / f"member_{i}" for i in range(self.model.num_members)]
        self._boards = [keras.callbacks.TensorBoard(str(folder), write_graph=False) for folder in folders]
        for board in self._boards:
            board.set_model(self.model)
            board.on_train_begin()

    def on_epoch_end(self, epoch, logs=None):
        for i, board in enumerate(self._boards):
            board.on_epoch_end(epoch, {name: float(values[i]) for name, values in self.model.member_logs.items()})

    def on_train_end(self, logs=None):
        for board in self._boards:
            board.on_train_end()
