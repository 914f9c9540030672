"""The trained weights of a packed model beside those of one member. N members."""

from keras import ops

from keras_multiweight.layers.any_layer import MapMembers


class StackedWeights:
    """Which stacked variable holds which weight of a member, for the trainable weights, in the order of one member.

    Args:
        model: A `MultiModel`.

    Attributes:
        num_members: N.
        templates: The Keras variables of one member: names, shapes, constraints. Their values mean nothing.
        stacked: The variables of the packed model, `(N, *shape)` or `(N * rows, ...)`.
        statistics: Its variables that no optimizer trains, of the same shapes: what batch normalisations have seen.
        assignable: Of the layers that Keras's own code computes, and that may assign what they train: tuples of the layer,
            the number of the weight in it, and the variable.
    """

    def __init__(self, model):
        self.num_members = model.num_members
        trained = {id(v) for v in model.trainable_variables}
        shared = {layer.name for layer in model.shared_layers()}
        self.templates, self.stacked, self.statistics, self.assignable = [], [], [], []
        for template, (name, index) in zip(model.template().weights, model.weight_places()):
            if name in shared:  # and frozen
                continue
            layer = model.get_layer(name)
            variable = layer.stacked_weights[index]
            if id(variable) in trained:
                trained.discard(id(variable))
                if isinstance(layer, MapMembers):
                    self.assignable.append((layer, index, variable))
                self.templates.append(template)
                self.stacked.append(variable)
            elif not variable.trainable:
                self.statistics.append(variable)
        if trained:
            raise ValueError(
                "Every trainable variable must hold one weight of each member. Received others: "
                f"{[v.path for v in model.trainable_variables if id(v) in trained]}."
            )

    def changed_by_layers(self):
        """The variables that layers change in training: statistics, and what SpectralNormalization does to its kernel."""
        return [*self.statistics, *(v for layer, index, v in self.assignable if index in layer.assigned)]

    def index(self, variable):
        """The number of a stacked variable."""
        return self._numbers[id(variable)]

    @property
    def _numbers(self):
        return {id(v): i for i, v in enumerate(self.stacked)}

    def values(self, index):
        """The members' values of weight number `index`, (N, ...)."""
        return ops.reshape(ops.convert_to_tensor(self.stacked[index]), (self.num_members, *self.templates[index].shape))

    def assign(self, index, values):
        """Give the members new values of weight number `index`, (N, ...)."""
        self.stacked[index].assign(ops.reshape(values, self.stacked[index].shape))


def both(first, second):
    """Which members are in both, (N,) bools; True stands for all."""
    if first is True or second is True:
        return second if first is True else first
    return ops.logical_and(first, second)


def choose_rows(keep, new, old):
    """`choose` for values `(N * rows, ...)`. Reshaped to `(N, rows, ...)`, compiled loops would copy them at every step."""
    rows = 1 if keep is True else new.shape[0] // keep.shape[0]
    return choose(ops.repeat(keep, rows) if rows > 1 else keep, new, old)


def choose(keep, new, old):
    """For each member `new` where `keep`, (N,), else `old`; both (N, ...). True keeps all."""
    return new if keep is True else ops.where(ops.reshape(keep, (-1, *(1,) * (len(new.shape) - 1))), new, old)
