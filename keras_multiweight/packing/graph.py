"""Walk the graph of a Keras model, node by node, from its public config."""

import collections
import functools

import keras


@functools.cache
def _functional_call():
    x = keras.Input((1,))
    return type(keras.Model(x, x)).call


def is_graph(layer):
    """Whether a layer is a Functional or Sequential model, whose config says all that it computes."""
    if not isinstance(layer, keras.Model) or not getattr(layer, "inputs", None):
        return False
    return type(layer).call in (_functional_call(), keras.Sequential.call)


def as_functional(model):
    """A plain Functional model over the same layers. A Sequential becomes one, a subclass loses its own config."""
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return keras.Model(model.input, model.output, name=model.name)


def walk(model, inputs, visit):
    """Call `visit(operation, args, kwargs)` at every node in the order of the data.

    Args:
        model: A model for which `is_graph` holds.
        inputs: What stands for the model's inputs, a flat list.
        visit: Gets a layer or raw operation of the model, and its arguments with every tensor replaced by what `visit`
            returned for it.

    Returns:
        What stands for the model's outputs, in their structure.
    """
    functional = as_functional(model)
    config = functional.get_config()
    operations = {operation.name: operation for operation in functional.operations}
    values = {(name, 0, 0): x for name, x in zip(_input_names(config), inputs, strict=True)}
    for name, index, node in _in_order(config):
        args, kwargs = _revive(node["args"], values), _revive(node["kwargs"], values)
        outputs = visit(operations[name], args, kwargs)
        for k, output in enumerate(keras.tree.flatten(outputs)):
            values[name, index, k] = output
    return _map_leaves(lambda leaf: values[_output_key(leaf, operations)], config["output_layers"])


def input_layers(model):
    """The input layers of a model, in the order of `model.inputs`."""
    functional = as_functional(model)
    operations = {operation.name: operation for operation in functional.operations}
    return [operations[name] for name in _input_names(functional.get_config())]


def _input_names(config):
    return keras.tree.flatten(_map_leaves(lambda leaf: leaf[0], config["input_layers"]))


def count_calls(model):
    """How often each layer is called in one pass through a model, those within others included: `{id(layer): calls}`."""
    counts = collections.Counter()
    _count(model, 1, counts)
    return counts


def _count(operation, calls, counts):
    counts[id(operation)] += calls
    if is_graph(operation):
        functional = as_functional(operation)
        operations = {operation.name: operation for operation in functional.operations}
        for layer in functional.get_config()["layers"]:
            _count(operations[layer["name"]], calls * len(layer["inbound_nodes"]), counts)
    for part in parts(operation):
        _count(part, calls, counts)


def parts(layer):
    """The layers that a wrapper calls, in order; none for other layers."""
    if isinstance(layer, keras.layers.Bidirectional):
        return [layer.forward_layer, layer.backward_layer]
    if isinstance(layer, keras.layers.TimeDistributed):
        return [layer.layer]
    return list(layer.layers) if isinstance(layer, keras.layers.Pipeline) else []


def _in_order(config):
    """The nodes of a graph as Keras runs them: the farther from the outputs, the earlier."""
    nodes = {(layer["name"], i): node for layer in config["layers"] for i, node in enumerate(layer["inbound_nodes"])}
    sources = {key: [ref[:2] for ref in _references(node) if ref[:2] in nodes] for key, node in nodes.items()}
    uses = collections.Counter(source for found in sources.values() for source in found)
    depths, ready = dict.fromkeys(nodes, 0), [key for key in nodes if not uses[key]]
    while ready:
        key = ready.pop()
        for source in sources[key]:
            depths[source] = max(depths[source], depths[key] + 1)
            uses[source] -= 1
            if not uses[source]:
                ready.append(source)
    return [(*key, nodes[key]) for key in sorted(nodes, key=depths.get, reverse=True)]


def _output_key(leaf, operations):
    """Outputs count the node that a nested Functional model begins with; the arguments of calls do not."""
    name, index, k = leaf
    nested = is_graph(operations[name]) and not isinstance(operations[name], keras.Sequential)
    return name, index - nested, k


def _references(item):
    """The tensors that a node's config names."""
    if isinstance(item, dict):
        if item.get("class_name") == "__keras_tensor__":
            yield tuple(item["config"]["keras_history"])
        else:
            for value in item.values():
                yield from _references(value)
    elif isinstance(item, (list, tuple)):
        for value in item:
            yield from _references(value)


def _revive(item, values):
    """The arguments of a call from their config."""
    if isinstance(item, dict):
        if item.get("class_name") == "__keras_tensor__":
            return values[tuple(item["config"]["keras_history"])]
        if item.get("class_name") and "config" in item:
            return keras.saving.deserialize_keras_object(item)
        return {key: _revive(value, values) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return [_revive(value, values) for value in item]
    return item


def _map_leaves(fn, item):
    """The structure of inputs or outputs in a config, whose leaves are `[layer, node, tensor]`."""
    if isinstance(item, dict):
        return {key: _map_leaves(fn, value) for key, value in item.items()}
    if len(item) == 3 and isinstance(item[0], str):
        return fn(item)
    return type(item)(_map_leaves(fn, value) for value in item)
