"""PermutationSpec: the groups of units of a model that can permute without a change of its function."""

import warnings

import keras
import numpy as np

from keras_multiweight.callers import stack_level
from keras_multiweight.merging import operation_rules, rules, weighted_rules  # noqa: F401  they register themselves
from keras_multiweight.merging.axes import fixed
from keras_multiweight.merging.blocks import blocks_of, replaced
from keras_multiweight.merging.registry import PERMUTATIONS
from keras_multiweight.merging.trace import PermutationTrace, Traced, traced_in
from keras_multiweight.packing.graph import input_layers, is_graph, walk
from keras_multiweight.packing.verify import Probe, relative_difference

TOLERANCE = 1e-5


class PermutationSpec:
    """Which axes of which weights of a model permute together, and how units lie on each axis.

    Made by `PermutationSpec.from_model(model)`. It holds for all models of that architecture.

    Attributes:
        groups: Dict of names to `Group`s, in the order of the data. `group.size` units; a group with a `group.parent`
            has its own permutation within each unit of the parent.
        frozen: Dict of the paths of layers that are not known to permute, to why. All that they touch is held fast.
        blocks: For each weight of the model, in order, a tuple of `Block`s: how units lie in the array.

    Example:

    ```python
    spec = merging.PermutationSpec.from_model(model)
    print(spec)
    spec.validate()
    same_function = spec.permute(model.get_weights(), spec.random(seed=0))
    ```
    """

    def __init__(self, model, groups, frozen, blocks, taps):
        self.model = model
        self.groups = groups
        self.frozen = frozen
        self.blocks = blocks
        self.taps = taps

    @classmethod
    def from_model(cls, model):
        """Find the groups from the graph.

        Layers and operations that are not known hold all that they touch fast; one warning names them. Say with
        `register_permutation_rule` what they do.

        Args:
            model: A built Functional or Sequential model.

        Raises:
            ValueError: Another model.
        """
        if not (isinstance(model, keras.Model) and model.built and is_graph(model)):
            raise ValueError(
                "PermutationSpec takes a built Functional or Sequential model. Received: "
                f"{type(model).__name__} '{getattr(model, 'name', model)}'."
            )
        walker = _Walker(model)
        if walker.trace.unknown:
            told = "; ".join(f"'{path}' {why}" for path, why in walker.trace.unknown.items())
            warnings.warn(
                f"Units that these layers touch are not permuted: {told}. Say which axes of a layer permute together with "
                "register_permutation_rule.",
                stacklevel=stack_level(),
            )
        return walker.spec(cls)

    def __str__(self):
        rows = [f"{len(self.groups)} groups of '{self.model.name}' permute:"]
        rows += [f"  {name}: {self._describe(name, group)}" for name, group in self.groups.items()]
        rows += [f"  held fast: '{path}' {why}" for path, why in self.frozen.items()]
        return "\n".join(rows)

    def _describe(self, name, group):
        at = [_place(w.path) for w, blocks in zip(self.model.weights, self.blocks) if any(name in b.groups for b in blocks)]
        within = f" within each of {self.name_of(group.parent)}" if group.parent else ""
        return f"{group.size} units{within}, in {', '.join(at[:4])}{f' and {len(at) - 4} more' if len(at) > 4 else ''}"

    def name_of(self, group):
        """The name of a group, or None of one that is held fast."""
        return next((name for name, own in self.groups.items() if own is group), None)

    # ---- permutations ----

    def identity(self):
        """The permutations that change nothing: for each group `(size,)`, or `(size of the parent, size)`."""
        return {name: _tiled(np.arange(group.size), group) for name, group in self.groups.items()}

    def random(self, seed=None):
        """Random permutations of every group."""
        rng = np.random.default_rng(seed)
        return {name: rng.permuted(p, axis=-1) for name, p in self.identity().items()}

    def permute(self, weights, permutations):
        """The weights with every group permuted: unit `i` is what was unit `permutations[group][i]`.

        Of a group within another, row `j` of its permutations belongs to unit `j` of the parent after it has moved.

        Args:
            weights: Arrays in the order of the model's weights.
            permutations: Dict as `identity()` gives it; a group that is left out stays.

        Returns:
            List of new arrays.
        """
        return self._replaced(weights, lambda block, part: block.gather(part, permutations))

    def mix(self, weights, maps):
        """The weights with units replaced by weighted sums of units: unit `i` is `sum(maps[group][i, j] * unit j)`."""
        return self._replaced(weights, lambda block, part: block.mix(part, maps))

    def _replaced(self, weights, change):
        return [replaced(w, blocks, change) for w, blocks in zip(weights, self.blocks, strict=True)]

    def validate(self, seed=0, tolerance=None):
        """Permute every group at random, and check that the model's function stays the same.

        The weights are disturbed before, so that no fresh zeros and ones hide a difference. The model is not changed.

        Args:
            seed: int, of the permutations and the disturbance.
            tolerance: The difference that is rounding. Left out, 1e-5, or that of half precision where a layer has it.

        Returns:
            The largest difference of an output, relative to the largest number in it.

        Raises:
            ValueError: It is larger than `tolerance`: a rule is wrong.
        """
        weights = self.model.get_weights()
        disturbed = _disturbed(self.model, np.random.default_rng(seed))
        probe = Probe(self.model)
        tolerance = tolerance or max(TOLERANCE, probe.tolerance if probe.tolerance > 1e-3 else 0.0)
        try:
            for values in (disturbed, self.permute(disturbed, self.random(seed))):
                self.model.set_weights(values)
                probe.record(self.model)
        finally:
            self.model.set_weights(weights)
        expected, received = ([keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(o)] for o in probe.outputs)
        worst = max(map(relative_difference, received, expected), default=0.0)
        if not worst <= tolerance:
            raise ValueError(
                f"Permuting the groups must not change what '{self.model.name}' computes. Received: a relative difference "
                f"of {worst:.3g}, above {tolerance:g}. A rule of register_permutation_rule is wrong, or one of this package."
            )
        return worst


def _place(path):
    """A weight's path without the name of the model around it."""
    return path.split("/", 1)[-1] if path.count("/") > 1 else path


def _tiled(permutation, group):
    return np.tile(permutation, (group.parent.size, 1)) if group.parent else permutation


def _disturbed(model, rng):
    """Random values of the size of a model's weights."""
    found = []
    for weight, value in zip(model.weights, model.get_weights()):
        if "float" in weight.dtype:
            scale = 0.3 * np.sqrt(np.mean(value.astype("float64") ** 2)) or 0.1
            noise = scale * rng.standard_normal(value.shape)
            value = (value + (np.abs(noise) if "variance" in weight.name else noise)).astype(value.dtype)
        found.append(value)
    return found


class _Walker:
    """Applies the rule of each layer on the way through a model."""

    def __init__(self, model):
        self.model = model
        self.trace = PermutationTrace()
        self.outputs = []  # of each operation, in the order of the walk
        inputs = [Traced(map(fixed, x.output.shape), x.output.dtype) for x in input_layers(model)]
        outputs = self.walk(model, inputs, "")
        self.trace.hold(outputs, "it is an output of the model")
        while sum(self.trace.close(axes) for axes, _, _ in self.trace.weights.values()):
            pass  # a group that now moves alike in all its parents may leave others without theirs

    def walk(self, model, inputs, path):
        def visit(operation, args, kwargs):
            return self.visit(operation, args, kwargs, f"{path}{operation.name}")

        return walk(model, inputs, visit)

    def visit(self, operation, args, kwargs, path):
        if is_graph(operation):
            return traced_in([self.walk(operation, traced_in(args), f"{path}/")])
        self.trace.path = path
        outputs = traced_in([self.rule(operation, args, kwargs)])
        for y in outputs:
            self.trace.close(y.axes)
        self.outputs.append((operation, outputs))
        return outputs

    def rule(self, operation, args, kwargs):
        """What the rule of an operation gives; held fast if there is none, or if it leaves a weight out."""
        rule = PERMUTATIONS.find(operation)
        why = f"({type(operation).__name__}) has no permutation rule"
        if rule is not None:
            outputs = rule(self.trace, operation, *args, **kwargs)
            left = self.trace.unplaced(operation) if isinstance(operation, keras.layers.Layer) else []
            if not left or self.trace.path in self.trace.unknown:
                return outputs
            self.trace.hold(outputs, f"'{self.trace.path}' has weights without a rule")
            why = f"has weights that its rule does not place: {', '.join(left)}"
        return self.trace.unknown_operation(operation, args, kwargs, why)

    def spec(self, cls):
        placed = [self.trace.weights.get(id(weight)) for weight in self.model.weights]
        named = self._names([axes for found in placed if found for axes in found[0]])
        blocks = [blocks_of(self.trace, found, named) if found else () for found in placed]
        taps = [[blocks_of(self.trace, (y.axes, y.shape, False), named) for y in outputs] for _, outputs in self.outputs]
        groups = {name: group for group, name in named.items()}
        return cls(self.model, groups, dict(self.trace.unknown), blocks, taps)

    def _names(self, axes):
        """A name of its own for each free group of the weights, in the order in which they were made."""
        found = {group for axis in axes for segment in self.trace.expand(axis) for group in segment if not group.reason}
        named, used = {}, set()
        for group in sorted(found, key=lambda group: group.number):
            name, k = group.name, 2
            while name in used:
                name, k = f"{group.name}_{k}", k + 1
            used.add(name)
            named[group] = name
        return named
