"""What packing knows while it runs: the layout of every tensor, and the packed layer at every place."""

import keras
from keras import tree

from keras_multiweight.copies import build_by_plan, build_plan, copy_layer, set_all_weights
from keras_multiweight.layers import plumbing
from keras_multiweight.layouts import Layout

_STEPS = {  # one step from a layout towards another, and the layer that takes it
    (Layout.SHARED, Layout.STACKED): (plumbing.StackMembers, Layout.STACKED),
    (Layout.SHARED, Layout.FOLDED): (plumbing.StackMembers, Layout.STACKED),
    (Layout.SHARED, Layout.GROUPED): (plumbing.StackMembers, Layout.STACKED),
    (Layout.STACKED, Layout.FOLDED): (plumbing.FoldMembers, Layout.FOLDED),
    (Layout.STACKED, Layout.GROUPED): (plumbing.GroupMembers, Layout.GROUPED),
    (Layout.FOLDED, Layout.STACKED): (plumbing.UnfoldMembers, Layout.STACKED),
    (Layout.FOLDED, Layout.GROUPED): (plumbing.UnfoldMembers, Layout.STACKED),
    (Layout.GROUPED, Layout.STACKED): (plumbing.UngroupMembers, Layout.STACKED),
    (Layout.GROUPED, Layout.FOLDED): (plumbing.UngroupMembers, Layout.STACKED),
}


class Trace:
    """Lives while one model is packed.

    The layout of a tensor is what the rule that made it said (`mark`). A change of layout (`to`) is a visible layer in
    the packed graph, made at most once for a tensor.
    """

    def __init__(self, num_members, safe_mode=True):
        self.num_members = num_members
        self.safe_mode = safe_mode
        self.layers = {}  # id(template layer) -> packed layer
        self.slots = {}  # id(template weight) -> (name of the packed layer, index in its stacked_weights)
        self.plan = []
        self._known = {}  # id(tensor) -> (tensor, layout); holds the tensor, so that its id stays its own
        self._moved = {}  # (id(tensor), layout) -> tensor
        self._bare = {}  # id(tensor) -> (tensor, the same without its mask)
        self._names = set()

    # ---- layouts ----

    def layout(self, x):
        return self._known[id(x)][1]

    def layouts(self, *structures):
        """The set of layouts in nested arguments."""
        return {self.layout(x) for x in tensors(structures)}

    def member_shape(self, x):
        """The shape of one member's part of a tensor; the channels of a GROUPED one are those of all."""
        layout, shape = self.layout(x), tuple(x.shape)
        if layout is Layout.STACKED:
            return shape[1:]
        if layout is Layout.FOLDED and shape[0]:
            return (shape[0] // self.num_members, *shape[1:])
        return shape

    def have_equal_rows(self, *structures):
        """Whether all tensors have the same rows. A table of positions `(1, T, C)` has not: it meets every row."""
        return len({self.member_shape(x)[:1] for x in tensors(structures)}) == 1

    def mark(self, structure, layout):
        """Say the layout of each tensor in a structure; returns the structure."""
        for x in tensors(structure):
            self._known[id(x)] = (x, layout)
        return structure

    def to(self, structure, layout):
        """The same tensors in another layout."""
        return tree.map_structure(lambda x: self._to(x, layout) if is_symbolic(x) else x, structure)

    def _to(self, x, layout):
        if self.layout(x) is layout:
            return x
        if (id(x), layout) not in self._moved:
            layer_class, reached = _STEPS[self.layout(x), layout]
            if (id(x), reached) not in self._moved:
                layer = layer_class(self.num_members, name=self.unique_name(f"to_{reached.value}"), dtype=x.dtype)
                self._moved[id(x), reached] = self.mark(layer(x), reached)
            self._moved[id(x), layout] = self._to(self._moved[id(x), reached], layout)
        return self._moved[id(x), layout]

    def drop_masks(self, structure):
        """From now on the tensors of a structure have no mask: `current` gives them without."""
        for x in tensors(structure):
            if mask_of(x):
                layer = plumbing.DropMask(self.num_members, name=self.unique_name("drop_mask"), dtype=x.dtype)
                self._bare[id(x)] = x, self.mark(layer(x), self.layout(x))

    def current(self, structure):
        """A structure, with its tensors as `drop_masks` left them."""
        return tree.map_structure(lambda x: self._bare.get(id(x), (x, x))[1], structure)

    # ---- layers ----

    def layer(self, members, kind, make):
        """The packed layer for a place of the graph, made at its first call and used again at later ones.

        One without weights is made once for each kind: its calls may differ in layout.
        """
        weights = getattr(members.template, "weights", ())
        key = id(members.template) if weights else (id(members.template), kind)
        if key not in self.layers:
            layer = self.layers[key] = make()
            self.plan.append({"layer": members.path, "class": type(members.template).__name__, "rule": kind,
                              "packed": type(layer).__name__, "name": layer.name})  # fmt: skip
            for index, weight in enumerate(weights):
                self.slots[id(weight)] = [layer.name, index]
        return self.layers[key]

    def ordinary(self, members, kind, layer_class=None):
        """A copy of a layer or operation, which serves all members: it has no weights, or those that all members have.

        Args:
            layer_class: Another class for the copy, which takes the same config.
        """
        template = members.template

        def make():
            layer = copy_layer(template, layer_class=layer_class, name=self.unique_name(members.path))
            if getattr(template, "weights", None):
                build_by_plan(layer, build_plan(template))
                set_all_weights(layer, members.take_shared_weights())
            return layer

        return self.layer(members, kind, make)

    def multi(self, members, kind, multi_class, **options):
        """A MultiLayer with the members' weights."""

        def make():
            name = self.unique_name(f"multi_{members.path}")
            stacks = members.take_weights()
            settings = members.take_settings(multi_class.settings_names)
            own = {"member_settings": settings} if settings else {}
            layer = multi_class.from_stacked(members.template, stacks, self.num_members, name=name, **own, **options)
            members.weights_became(layer.stacked_weights)
            return layer

        return self.layer(members, kind, make)

    def unique_name(self, wanted):
        wanted = wanted.replace("/", "_")
        name, count = wanted, 1
        while name in self._names:
            name, count = f"{wanted}_{count}", count + 1
        self._names.add(name)
        return name


def is_symbolic(x):
    return isinstance(x, keras.KerasTensor)


def tensors(structure):
    """The symbolic tensors of a structure; constants have no layout."""
    return [x for x in tree.flatten(structure) if is_symbolic(x)]


def mask_of(structure):
    """Whether a tensor in a structure carries a Keras mask."""
    return any(getattr(x, "_keras_mask", None) is not None for x in tensors(structure))
