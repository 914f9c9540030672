"""Soft matching: each unit is averaged with all units of another member that resemble it, or with the few that do most.

After the hard matching, the similarities of a group's units are turned into weights by Sinkhorn's iteration, the entropic
form of the linear assignment: the lower the temperature, the closer to the hard matching. Weighted sums of units do not
keep the function of a network as permutations do, so `repair` matters more.

Reference: Singh and Jaggi, 2020, "Model fusion via optimal transport".
"""

import dataclasses

import numpy as np

from keras_multiweight.merging.matching import Matcher

ROUNDS = 200


@dataclasses.dataclass(frozen=True)
class SoftMatching:
    """How units are averaged with those that resemble them.

    Attributes:
        temperature: Not below 0. In units of the mean similarity of matched units; 0 is the hard matching.
        top_k: How many units of a member take part in a unit of the merged network: the matched one, and the most similar
            of the others. None for all, 1 for the hard matching.
    """

    temperature: float = 0.1
    top_k: int | None = None

    def __post_init__(self):
        if not self.temperature >= 0 or (self.top_k is not None and self.top_k < 1):
            raise ValueError(
                "SoftMatching takes a temperature not below 0 and a top_k of at least 1, or None. Received: "
                f"temperature={self.temperature}, top_k={self.top_k}."
            )

    @property
    def is_hard(self):
        return self.temperature == 0 or self.top_k == 1

    def map_of(self, similarity):
        """`(size, size)` weights, whose rows sum to one, of the similarities of units that are matched: `[i, i]` belong
        together."""
        scale = self.temperature * max(np.abs(np.diag(similarity)).mean(), 1e-30)
        weights = _sinkhorn(_reduced(similarity) / scale)
        if self.top_k is not None:
            order = np.argsort(-np.where(np.eye(len(weights), dtype=bool), np.inf, weights), axis=1, kind="stable")
            np.put_along_axis(weights, order[:, self.top_k :], 0.0, axis=1)
        return weights / weights.sum(axis=1, keepdims=True)


def _reduced(similarity):
    """The similarities minus the prices of rows and columns at which the matched pairs are best: these are 0, others less.

    Sinkhorn's iteration ends where it would without, but at low temperatures in a few rounds. Prices are longest paths;
    their mean over all places to start from leaves no other pair at 0 but a real tie.
    """
    gains = similarity - np.diag(similarity)[:, None]
    longest = gains.copy()
    for k in range(len(gains)):
        np.maximum(longest, longest[:, k, None] + longest[None, k], out=longest)
    prices = longest.mean(axis=0)
    return gains + prices[:, None] - prices


def _sinkhorn(logits):
    """The doubly stochastic matrix `exp(logits + rows + columns)`."""
    for _ in range(ROUNDS):
        for axis in (0, 1):
            top = logits.max(axis=axis, keepdims=True)
            logits = logits - top - np.log(np.exp(logits - top).sum(axis=axis, keepdims=True))
    return np.exp(logits)


def soften(alignment, terms, soft, reference=0):
    """The arrays of aligned members, with units mixed. The reference member stays as it is; so do groups in groups.

    Args:
        alignment: An `Alignment`.
        terms: The `Terms` by which units are similar.
        soft: `SoftMatching`.
        reference: The member that stays.

    Returns:
        For each weight the `(N, ...)` array of the members' values.
    """
    spec, arrays = alignment.spec, alignment.arrays()
    if soft.is_hard:
        return arrays
    matcher, count = Matcher(spec, terms.blocks), len(terms.parts)
    moved = [
        [block.gather(part, p) for block, part in zip(terms.blocks, parts)]
        for parts, p in zip(terms.parts, alignment.permutations)
    ]
    total = [sum(parts) for parts in zip(*moved)]
    for i in range(count):
        if i != reference:
            others = [(whole - own) / (count - 1) for whole, own in zip(total, moved[i])]
            maps = {name: soft.map_of(s) for name, s in similarities(matcher, others, moved[i]).items()}
            for array, mixed in zip(arrays, spec.mix([array[i] for array in arrays], maps)):
                array[i] = mixed
    return arrays


def similarities(matcher, target, source):
    """The similarities of the units of each group that stands alone, neither in a group nor with groups in it."""
    alone = [name for name, uses in matcher.uses.items() if uses and name not in matcher.parents]
    alone = [name for name in alone if not matcher.children(name)]
    still = matcher.spec.identity()
    return {name: matcher.similarity(name, target, source, still) for name in alone}
