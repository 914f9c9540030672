"""Is each member of a packed model the model in its file?"""

from pathlib import Path

import numpy as np

from keras_multiweight_cli.files import load


def compare(multi, paths):
    """For each file `(same, what is shown)` of config, weights and outputs."""
    from keras_multiweight.packing.match import config_differences, model_config
    from keras_multiweight.packing.verify import Probe

    member = multi.member(0)
    expected, probe = model_config(member), Probe(member)
    for model in (member, multi):
        probe.record(model)
    packed_outputs = probe.outputs[-1]
    for i, path in enumerate(paths):
        model = load(Path(path))
        found = config_differences(expected, model_config(model), i, path)
        if found:
            yield (False, f"{found[0].key}: {found[0].received!r} in the file"), (False, "-"), (False, "-")
            continue
        probe.record(model)
        weights = _compare_bits(multi.member_weights(i), model.get_weights())
        yield (True, "equal"), weights, _compare_outputs(packed_outputs, probe.outputs[-1], i)


def _compare_bits(expected, received):
    """Bit-equality: NaN equals itself, and 0.0 is not -0.0."""
    pairs = zip(expected, received)
    count = sum(a.shape != b.shape or a.dtype != b.dtype or a.tobytes() != b.tobytes() for a, b in pairs)
    count += abs(len(expected) - len(received))
    return count == 0, f"{count} of {len(expected)} differ" if count else "equal"


def _compare_outputs(packed, own, i):
    import keras

    from keras_multiweight.packing.verify import TOLERANCE

    worst, same = 0.0, True
    for received, expected in zip(keras.tree.flatten(packed), keras.tree.flatten(own)):
        received, expected = keras.ops.convert_to_numpy(received)[:, i], keras.ops.convert_to_numpy(expected)
        difference = _difference(received, expected)
        worst, same = max(worst, difference), same and difference <= TOLERANCE.get(str(expected.dtype), 0.0)
    return same, f"within {worst:.0e}" if worst else "equal"


def _difference(received, expected):
    from keras_multiweight.packing.verify import relative_difference

    if expected.dtype.kind in "fiub":
        return relative_difference(received, expected)
    return float(not np.array_equal(received, expected))
