"""The gradient of one stacked variable, as the gradients of the members. N members."""

from keras import ops

from keras_multiweight.training import lowerings


class MemberGradient:
    """The members' gradients of one weight.

    On TensorFlow the gradient of an embedding is sparse: rows of the table with their numbers, a row as often as it was
    read. Keras's optimizers work on these rows as they come, without adding up equal ones, so that the members' rows are
    kept apart and as they come, too.

    Args:
        gradient: As the backend gives it for the stacked variable.
        shape: The shape of one member's weight.
        num_members: N.

    Attributes:
        values: (N, ...): the gradients, or their rows `(N, K, ...)` if they are sparse.
        ids: (N, K): the numbers of the rows, if they are sparse, else None.
    """

    def __init__(self, gradient, shape, num_members):
        self.shape = tuple(shape)
        self.num_members = num_members
        self.original = gradient
        self._squares = None
        if lowerings.is_sparse(gradient):
            self.values, self.ids = lowerings.sparse_parts(gradient, self.shape[0], num_members)
        else:
            self.values, self.ids = ops.reshape(gradient, (num_members, *self.shape)), None

    def map(self, function):
        """The gradient after a function of its values that keeps their shape."""
        changed = object.__new__(MemberGradient)
        vars(changed).update(vars(self), original=None, _squares=None, values=function(self.values))
        return changed

    def for_branch(self, alive):
        """The gradients of the members that are `alive`, (N,), and 0 of others, with squares added up here.

        XLA adds them up in the order of a single member's program only in a loop that computes the gradient, too. It makes
        such loops of all that read a gradient, or of none; and a branch, which would read the gradient as it is, is no loop.
        """
        known = self.map(lambda values: ops.where(per_member(alive, values), values, 0.0))
        known._squares = self.squares()
        return known

    def dense(self):
        """The same gradient with equal rows added up."""
        if self.ids is None:
            return self
        changed = self.map(lambda values: values)
        changed.values, changed.ids = lowerings.dense_parts(self.values, self.ids, self.shape), None
        return changed

    def squares(self):
        """The sum of squares of each member, (N,)."""
        return _sums(ops.square(self.values)) if self._squares is None else self._squares

    def finite(self):
        """Whether all numbers of each member are finite, (N,)."""
        return lowerings.all_finite(self.values)

    # ---- for optimizers ----

    @property
    def parts(self):
        """The tensors that a mapped update takes, members first."""
        return [self.values] if self.ids is None else [self.values, self.ids]

    def member(self, supply):
        """One member's gradient from an iterator over its parts."""
        values = next(supply)
        return values if self.ids is None else lowerings.sparse(values, next(supply), self.shape)

    def stacked(self, variable):
        """The gradient of the stacked variable."""
        if self.original is not None:
            return self.original
        if self.ids is None:
            return ops.reshape(self.values, variable.shape)
        return lowerings.sparse_stack(self.values, self.ids, variable.shape)


def _sums(x):
    """(N, ...) -> (N,)"""
    return ops.sum(ops.reshape(x, (x.shape[0], -1)), axis=1)


def per_member(vector, like):
    """(N,) -> (N, 1, ..., 1), to meet the members of a tensor `(N, ...)`."""
    return ops.reshape(vector, (-1, *(1,) * (len(like.shape) - 1)))
