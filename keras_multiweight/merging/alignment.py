"""Members whose units stand in common places: `weight_matching` and `activation_matching`."""

import dataclasses

import numpy as np

from keras_multiweight.merging.many import METHODS, Together, common_objective
from keras_multiweight.merging.matching import Matcher
from keras_multiweight.merging.members import Members, open_for_merging
from keras_multiweight.merging.spec import PermutationSpec
from keras_multiweight.merging.terms import activation_terms, weight_terms
from keras_multiweight.packing.pack import pack


@dataclasses.dataclass(frozen=True)
class Alignment:
    """The permutations that bring the units of N members to common places.

    Attributes:
        members: `Members`, as they were given.
        spec: The `PermutationSpec` of their architecture.
        permutations: For each member a dict of groups to permutations, as `spec.permute` takes it.
        objective: The mean over all pairs of members of the inner product of what was compared, after permuting. Larger
            is more alike.
        sweeps: The most sweeps over all groups that a matching took; the last one changes nothing.
        rounds: How often each member was matched, with `"mergemany"`.
    """

    members: Members
    spec: PermutationSpec
    permutations: list
    objective: float
    sweeps: int
    rounds: int = 1

    def __repr__(self):
        moved = [sum(map(_moved, own.values())) for own in self.permutations]
        return (
            f"<Alignment of {len(self.members)} members in {len(self.spec.groups)} groups of units: {moved} units of the "
            f"members move, objective {self.objective:.4g}, {self.sweeps} sweeps, {self.rounds} rounds>"
        )

    def aligned(self):
        """The aligned members, as `Members`."""
        moved = [self.spec.permute(self.members.weights(i), p) for i, p in enumerate(self.permutations)]
        return Members(self.members.template, self.members.names, [np.stack(values) for values in zip(*moved)])

    def arrays(self):
        """For each weight the `(N, ...)` array of the aligned members' values."""
        return self.aligned().arrays

    def models(self):
        """The aligned members as Keras models. Each computes what it did before."""
        aligned = self.aligned()
        return [aligned.model(aligned.weights(i)) for i in range(len(aligned))]

    def pack(self, **options):
        """The aligned members as a `MultiModel`."""
        return pack(self.models(), **options)


def weight_matching(models, method=None, init="forward", restarts=0, reference=0, seed=0, spec=None):
    """Find the permutations of hidden units that bring the members' weights closest to each other.

    Exact linear assignments, one group of units at a time, until none improves. The members keep their functions.

    Args:
        models: A MultiModel, or what `pack` takes: a list of models or paths, or a pattern. They are not changed.
        method: For more than two members: `"mergemany"` (the default) matches each to the mean of all others until a
            round gains less than a thousandth; `"reference"` matches all to one of them, once; `"cycle"` searches all
            permutations at the same time, by Frank-Wolfe. All cost linear time in the number of members.
        init: `"forward"` begins with a sweep from the input upward; `"identity"` with the units as they are, for members
            that began from the same weights.
        restarts: How many more searches begin with random permutations; the best is taken. For models whose residual
            stream no input or output anchors.
        reference: The member that the others come to, and that `"mergemany"` begins with.
        seed: int, for the order of the groups and the restarts.
        spec: A `PermutationSpec` of the members' architecture, if it is at hand.

    Returns:
        An `Alignment`: `.models()`, `.pack()`, `.permutations`, `.objective`.

    Raises:
        IncompatibleModelsError: Models of different architectures.
        ValueError: Fewer than two members, or NaN weights.

    Example:

    ```python
    aligned = merging.weight_matching([a, b]).models()
    ```

    Reference: Ainsworth, Hayase, Srinivasa, 2022, "Git Re-Basin: merging models modulo permutation symmetries".
    """
    members, spec, options = _opened(models, spec, method, init, restarts, reference, seed)
    return _align(members, spec, weight_terms(spec, members), options)


def activation_matching(
    models, data, similarity="correlation", method=None, init="forward", restarts=0, reference=0, seed=0, spec=None
):
    """As `weight_matching`, by what the units give on data in place of their weights.

    Units that no layer shows, such as the heads of an attention layer, are matched by their weights.

    Args:
        models, method, init, restarts, reference, seed, spec: As for `weight_matching`.
        data: Inputs as a member takes them, a few hundred to a few thousand rows.
        similarity: `"correlation"` of two units over the data; `"inner_product"`; or `"l2"`, the negative squared distance,
            which for permutations is the same as the inner product.

    Returns:
        An `Alignment`.

    Raises:
        IncompatibleModelsError: Models of different architectures.
        ValueError: Fewer than two members, NaN weights, or data of a shape that they do not take.

    Example:

    ```python
    aligned = merging.activation_matching(multi, x).pack()
    ```

    Reference: Li et al., 2015, "Convergent learning: do different neural networks learn the same representations?"
    """
    members, spec, options = _opened(models, spec, method, init, restarts, reference, seed)
    terms = activation_terms(spec, members, data, similarity, seed=seed)
    shown = {name for block in terms.blocks for name in block.groups if name}
    first = _align(members, spec, terms, options, [name for name in spec.groups if name in shown])
    hidden = [name for name in spec.groups if name not in shown]
    if not hidden:
        return first
    rest = _align(members, spec, weight_terms(spec, members), options, hidden, first.permutations)
    return dataclasses.replace(first, permutations=rest.permutations, sweeps=max(first.sweeps, rest.sweeps))


def _moved(permutation):
    """How many units a permutation gives another place."""
    return int((np.asarray(permutation) != np.arange(np.shape(permutation)[-1])).sum())


def _opened(models, spec, method, init, restarts, reference, seed):
    members = open_for_merging(models)
    method = method or "mergemany"
    if method not in METHODS or init not in ("forward", "identity"):
        raise ValueError(
            f'method must be one of {", ".join(METHODS)}, and init "forward" or "identity". '
            f"Received: method={method!r}, init={init!r}."
        )
    if not 0 <= reference < len(members):
        raise ValueError(f"reference must be a member, 0 to {len(members) - 1}. Received: reference={reference}.")
    options = {"reference": reference, "init": init, "restarts": restarts, "seed": seed}
    return members, spec or PermutationSpec.from_model(members.template), (method, options)


def _align(members, spec, terms, options, names=None, starts=None):
    method, options = options
    starts = starts or [spec.identity() for _ in terms.parts]
    together = Together(Matcher(spec, terms.blocks, names), terms.parts, starts)
    METHODS[method](together, **options)
    return Alignment(members, spec, together.permutations, common_objective(together), together.sweeps, together.rounds)
