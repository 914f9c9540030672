"""Gradient clipping of each member alone. N members."""

import numpy as np
from keras import ops

from keras_multiweight.training.gradients import per_member


class Clipping:
    """Clips each member's gradients as its own optimizer would: `clipnorm`, `global_clipnorm` or `clipvalue`.

    Args:
        optimizers: The Keras optimizer of each member.
    """

    def __init__(self, optimizers):
        steps = {"clipnorm": _by_norm, "global_clipnorm": _by_global_norm, "clipvalue": _by_value}
        self._steps = []
        for name, step in steps.items():
            limits = [getattr(optimizer, name) or 0.0 for optimizer in optimizers]
            if any(limit > 0 for limit in limits):
                self._steps.append((step, np.array(limits)))

    @property
    def by_norm(self):
        """Whether some members' weights are clipped each by its norm."""
        return any(step is _by_norm for step, _ in self._steps)

    def for_branch(self, gradients, alive):
        """Gradients for an update that is a branch of a compiled program, of members that are `alive`, (N,)."""
        return {i: g.for_branch(alive) for i, g in gradients.items()} if self.by_norm else gradients

    def __call__(self, gradients, members):
        """The gradients, a dict of numbers of weights to `MemberGradient`, clipped for some members; others are not used."""
        for step, limits in self._steps:
            if not (limits[members] > 0).any():
                continue
            clipped = step(gradients, np.where(limits > 0, limits, 1.0))
            gradients = {i: _where(limits > 0, clipped[i], gradients[i]) for i in gradients}
        return gradients


def _by_norm(gradients, limits):
    return {i: gradient.map(lambda v, g=gradient: _limited(v, g.squares(), limits)) for i, gradient in gradients.items()}


def _limited(values, squares, limits):
    squares = per_member(squares, values)  # (N, 1, ...) as Keras has one member's: a shape that lets XLA fuse what reads it
    norms = ops.where(squares > 0, ops.sqrt(ops.where(squares > 0, squares, 1.0)), squares)
    limits = per_member(_like(limits, norms), values)
    return values * limits / ops.maximum(norms, limits)


def _by_global_norm(gradients, limits):
    norms = ops.sqrt(sum(gradient.squares() for gradient in gradients.values()))
    limits = _like(limits, norms)
    scale = limits * ops.minimum(1.0 / norms, 1.0 / limits) + (norms - norms)  # NaN where a norm is not finite
    scaled = {i: gradient.dense() for i, gradient in gradients.items()}  # Keras's product with a sparse one is dense
    return {i: g.map(lambda v: v * per_member(ops.cast(scale, v.dtype), v)) for i, g in scaled.items()}


def _by_value(gradients, limits):
    return {i: g.map(lambda v: _bounded(v, per_member(_like(limits, v), v))) for i, g in gradients.items()}


def _bounded(values, limits):
    return ops.clip(values, -limits, limits)


def _like(limits, x):
    """(N,) limits in the dtype of a tensor: in another they are other numbers."""
    return ops.convert_to_tensor(limits, dtype=x.dtype)


def _where(clips, clipped, gradient):
    """Of each member the clipped gradient, if it clips."""
    if clips.all():
        return clipped
    gradient = gradient if clipped.ids is not None else gradient.dense()
    return gradient.map(lambda v: ops.where(per_member(ops.convert_to_tensor(clips), v), clipped.values, v))
