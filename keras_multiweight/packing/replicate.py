"""replicate: N fresh members of one architecture."""

import keras
import numpy as np

from keras_multiweight.copies import copy_built, serialized
from keras_multiweight.deep import deep_graphs
from keras_multiweight.packing.files import LiveModels, listed
from keras_multiweight.packing.graph import input_structure
from keras_multiweight.packing.inputs import input_flags
from keras_multiweight.packing.pack import build
from keras_multiweight.packing.weights import Stacks, read_weights
from keras_multiweight.seeding import seeded


@deep_graphs()
def replicate(model, num_members, *, seed=None, inputs=None, member_inputs=False, name=None):
    """A MultiModel of N fresh, independently initialised members.

    Args:
        model: The architecture: a built Keras model, whose weights do not matter and stay as they are; or a function
            without arguments that builds one.
        num_members: int, N.
        seed: int, for the same members at every call. Left out, the members are new each time.
        inputs: What a subclassed model is called with, as for `pack`.
        member_inputs: Whether each member reads inputs of its own, `(B, N, ...)`, as for `pack`.
        name: Name of the MultiModel.

    Returns:
        A `MultiModel`. Member i has the weights that building the model alone gives after
        `keras.utils.set_random_seed(multi.member_seeds[i])`, where building means calling the function, or
        `type(model).from_config(model.get_config())`. Seeds that are written into the initialisers of a model would make
        all members equal and are ignored.

    Raises:
        ValueError: `num_members` is no positive int, the model is not built, or a function builds equal members.

    Example:

    ```python
    multi = kmw.replicate(model, 20, seed=0)
    multi.member_seeds  # 20 ints
    ```
    """
    if not isinstance(num_members, int) or num_members < 1:
        raise ValueError(f"num_members must be an int of at least 1. Received: num_members={num_members!r}.")
    fresh = (lambda: _rebuilt(model)) if isinstance(model, keras.Model) else model
    with seeded(0):
        template = LiveModels(listed([fresh()])).template()
    flags = input_flags(member_inputs, input_structure(template, inputs))
    seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(num_members) & 0x7FFFFFFF]
    stacks = Stacks(template, num_members)
    for i, member_seed in enumerate(seeds):
        with seeded(member_seed):
            stacks.put(i, read_weights(fresh()))
    if num_members > 1 and template.weights and stacks.are_equal(template):
        raise ValueError(
            "Members must differ, but the function builds the same weights at every call. Take the fixed seeds out of "
            f"its initialisers. Received: {num_members} equal members of '{template.name}'."
        )
    names = [f"'{template.name}' with seed {s}" for s in seeds]
    return build(template, stacks, names, None, name, member_seeds=seeds, inputs=inputs, flags=flags)


def _rebuilt(model):
    config = _without_seeds(serialized(model))
    return copy_built(model, config["config"])


def _without_seeds(config):
    """A config whose initialisers have no fixed seeds."""
    if isinstance(config, dict):
        is_initializer = config.get("module") == "keras.initializers"
        inner = {key: _without_seeds(value) for key, value in config.items()}
        if is_initializer and "seed" in (inner.get("config") or {}):
            inner["config"] = {**inner["config"], "seed": None}
        return inner
    return [_without_seeds(value) for value in config] if isinstance(config, list) else config
