"""How a layer with a member axis chooses among its lowerings. N members, B rows."""

from keras_multiweight.layers.costs import cheapest


class ChoosesLowering:
    """The part of a `MultiLayer` that knows its implementations: *lowerings*, which give the same numbers at other costs.

    A subclass names all that it has in `lowering_names`, those that are possible here in `lowerings()`, the one to fall
    back on first, and what a call costs in `work()`; its `call` does what `choose()` says.
    """

    lowering_names = ()  # on any backend, for any arguments

    @property
    def lowering(self):
        """The lowering that this layer must take, or None: the cheapest for the sizes at hand, by the table of costs.

        One that is not among `lowerings()` here, such as that of a file from another backend, is kept but not followed.
        Programs that were compiled before it is set stay as they are: make new predictors, and compile again.
        """
        return self._lowering

    @lowering.setter
    def lowering(self, name):
        if name is not None and name not in self.lowering_names:
            raise ValueError(
                f"The lowering of a {type(self).__name__} must be None or one of {self.lowering_names}. "
                f"Received: lowering={name!r}."
            )
        self._lowering = name

    def lowerings(self):
        """The names of the lowerings that are possible for this layer on this backend, as a tuple.

        Empty where there is nothing to choose. The first is that of training, and of sizes that nobody measured.
        """
        return self.lowering_names

    def work(self, shape):
        """What the table of costs is searched by: a dict of the `kind` of work, and its sizes. None: nothing is known.

        Args:
            shape: That of one member's input, `(B, ..., C)`, with None for what is not known.
        """
        return None

    def choose(self, x, training=False):
        """The lowering for an input of this layer: the forced one, or the cheapest for its sizes."""
        return self.choose_for(self._member_shape(tuple(x.shape)), training)

    def choose_for(self, shape, training=False):
        """The same for the shape of one member's input, `(B, ..., C)`."""
        names = self.lowerings()
        if self._lowering in names:
            return self._lowering
        work = None if training else self.work(shape)
        return cheapest(names, **work) if work else next(iter(names), None)

    def lowering_for_rows(self, rows=None):
        """The lowering in the packed model that this layer is in, for so many rows, as `plan()` shows it; or None."""
        shape = self._hidden.input_shape
        return shape and self.choose_for((rows, *shape[1:]))
