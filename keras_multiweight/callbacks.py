"""Callbacks for `MultiModel.fit` that act on each member alone, and one that brings the members together.

Keras's own act on the means over the members.
"""

from keras_multiweight.merging.averaging import PeriodicModelAveraging
from keras_multiweight.training.callbacks import (
    MemberCallback,
    MemberCheckpoint,
    MemberCSVLogger,
    MemberEarlyStopping,
    MemberReduceLROnPlateau,
    MemberTensorBoard,
)

__all__ = [
    "MemberCSVLogger",
    "MemberCallback",
    "MemberCheckpoint",
    "MemberEarlyStopping",
    "MemberReduceLROnPlateau",
    "MemberTensorBoard",
    "PeriodicModelAveraging",
]
