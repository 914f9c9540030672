"""Is each member of a packed model the model in its file?"""


def compare(multi, paths):
    """For each file `(same, what is shown)` of config, weights and outputs."""
    groups = zip(multi.groups, multi.group_members) if hasattr(multi, "groups") else [(multi, range(len(paths)))]
    rows = {i: row for group, own in groups for i, row in zip(own, _compare_alike([paths[i] for i in own], group))}
    return [rows[i] for i in range(len(paths))]


def _compare_alike(paths, multi):
    """The rows of members of one architecture."""
    from keras_multiweight.packing.files import ModelFiles
    from keras_multiweight.packing.match import IncompatibleModelsError
    from keras_multiweight.packing.verify import Probe

    template = multi.member(0)
    probe = Probe(template)
    for model in (template, multi):
        probe.record(model)
    packed_outputs = probe.outputs[-1]
    for i, member in enumerate(ModelFiles(paths, template=template)):
        try:
            model = _loaded(member, i, multi)
        except IncompatibleModelsError as error:
            found = error.differences[0]
            yield (False, f"{found.key}: {found.received!r} in the file"), (False, "-"), (False, "-")
            continue
        probe.record(model)
        weights = _compare_bits(multi.member_weights(i), model.get_weights())
        yield (True, "equal"), weights, _compare_outputs(packed_outputs, probe.outputs[-1], i, probe.tolerance)


def _loaded(member, i, multi):
    from keras_multiweight.packing.match import Difference, IncompatibleModelsError, config_differences

    found = config_differences(member.expected, member.received, i, member.name)
    settings = zip(multi.settings_of_members(), member.settings or ())
    pairs = [(path, values[i], value) for (path, values), (_, value) in settings]
    found += [Difference(i, member.name, None, *pair) for pair in pairs if pair[1] != pair[2]]
    if found:
        raise IncompatibleModelsError(found)
    return member.load()


def _compare_bits(expected, received):
    """Bit-equality: NaN equals itself, and 0.0 is not -0.0."""
    pairs = zip(expected, received)
    count = sum(a.shape != b.shape or a.dtype != b.dtype or a.tobytes() != b.tobytes() for a, b in pairs)
    count += abs(len(expected) - len(received))
    return count == 0, f"{count} of {len(expected)} differ" if count else "equal"


def _compare_outputs(packed, own, i, tolerance):
    from keras import tree

    from keras_multiweight.rounding import relative_difference

    pairs = zip(tree.flatten(packed), tree.flatten(own))
    worst = max((relative_difference(received[:, i], expected) for received, expected in pairs), default=0.0)
    return worst <= tolerance, f"within {worst:.0e}" if worst else "equal"
