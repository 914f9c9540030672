"""`merge_members`: align, average, repair."""

from keras_multiweight.merging.alignment import Alignment, activation_matching, weight_matching
from keras_multiweight.merging.members import average, coefficients_of, open_for_merging
from keras_multiweight.merging.repair import repair as repaired
from keras_multiweight.merging.soft import soften
from keras_multiweight.merging.soups import uniform_soup
from keras_multiweight.merging.terms import activation_terms, weight_terms


def merge_members(
    models,
    weights=None,
    align="weights",
    data=None,
    soft=None,
    repair=None,
    similarity="correlation",
    reference=0,
    **options,
):
    """One network from N trained ones: match their hidden units, average what belongs together, repair what that costs.

    Args:
        models: A MultiModel, or what `pack` takes: a list of models or paths, or a pattern. They are not changed.
        weights: `(N,)` how much each member counts. Left out, all alike.
        align: `"weights"` or `"activations"`: by what units are matched. An `Alignment` that is at hand. Or None: average
            the weights as they are, as `uniform_soup` does.
        data: Inputs for `align="activations"`. Left out, those for `repair`.
        soft: A `SoftMatching`, to average each unit with all that resemble it, or the `top_k` most similar. Left out, each
            with the one that it is matched to.
        repair: Inputs on which the merged network gets the members' means and standard deviations back (`repair`).
        similarity: As for `activation_matching`.
        reference: As for `weight_matching`; soft matching leaves the units of this member as they are.
        **options: Of `weight_matching`: `method`, `init`, `restarts`, `seed`, `spec`.

    Returns:
        A Keras model of the members' architecture.

    Raises:
        IncompatibleModelsError: Models of different architectures.
        ValueError: Fewer than two members, NaN weights, or data of a shape that they do not take.

    Merging fails, and `multi.average()` is the better answer, where members are thin, were trained at a low learning
    rate or without weight decay, or saw different classes: look at `loss_barrier`.

    Example:

    ```python
    merged = merging.merge_members([a, b], align="activations", repair=x)
    ```
    """
    members = open_for_merging(models)
    data = repair if data is None else data
    coefficients = coefficients_of(weights, len(members))
    if align is None:
        if soft is not None:
            raise ValueError("Soft matching starts from a matching. Received: soft without align.")
        merged = uniform_soup(members, weights)
    else:
        alignment = _aligned(members, align, data, similarity, reference=reference, **options)
        merged = members.model(average(members, coefficients, _arrays(alignment, align, data, similarity, soft, reference)))
        members = alignment.aligned()  # repair compares units in the same places
    return merged if repair is None else repaired(merged, members, repair, weights)


def _aligned(members, align, data, similarity, **options):
    if isinstance(align, Alignment):
        return align
    if align == "weights":
        return weight_matching(members, **options)
    if align != "activations":
        raise ValueError(f'align must be "weights", "activations", an Alignment or None. Received: align={align!r}.')
    if data is None:
        raise ValueError('align="activations" needs data, inputs as a member takes them. Received: data=None.')
    return activation_matching(members, data, similarity, **options)


def _arrays(alignment, align, data, similarity, soft, reference):
    """The aligned members' arrays, mixed if matching is soft."""
    if soft is None:
        return alignment.arrays()
    by_activations = align == "activations"
    members, spec = alignment.members, alignment.spec
    terms = activation_terms(spec, members, data, similarity) if by_activations else weight_terms(spec, members)
    return soften(alignment, terms, soft, reference)
