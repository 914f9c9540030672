"""Walk the graph of a Keras model, node by node, from its public config."""

import collections
import functools
import inspect

import keras

from keras_multiweight.copies import build_config


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
            returned for it. Returns its outputs as a flat list.

    Returns:
        What stands for the model's outputs, in their structure.
    """
    functional = as_functional(model)
    config = functional.get_config()
    operations = {operation.name: operation for operation in functional.operations}
    values = {(name, 0): [x] for name, x in zip(_input_names(config), inputs, strict=True)}
    nodes = {(layer["name"], i): node for layer in config["layers"] for i, node in enumerate(layer["inbound_nodes"])}
    outputs = _map_leaves(lambda leaf: _Leaf(_output_node(leaf, operations), leaf[2]), config["output_layers"])
    for name, index in _in_order(nodes, [leaf.node for leaf in keras.tree.flatten(outputs)]):
        node = nodes[name, index]
        args, kwargs = _revive(node["args"], values), _revive(node["kwargs"], values)
        values[name, index] = visit(operations[name], args, kwargs)
    return keras.tree.map_structure(lambda leaf: values[leaf.node][leaf.tensor], outputs)


def takes_training(operation):
    """Whether a layer's call has the argument `training`, which a Functional model hands on to all layers within it."""
    return isinstance(operation, keras.layers.Layer) and "training" in inspect.signature(operation.call).parameters


def called_with(model, args, kwargs):
    """The tensors and the masks that a nested model is called with, as flat lists in the order of its inputs."""
    inputs, masks = args[0] if args else kwargs["inputs"], kwargs.get("mask")
    own = model.inputs if isinstance(model, keras.Sequential) else model.input
    if isinstance(inputs, dict) and not isinstance(own, dict):  # by the names of the inputs
        inputs = [inputs[x.name] for x in keras.tree.flatten(own)]
    inputs = keras.tree.flatten(inputs)
    return inputs, [None] * len(inputs) if masks is None else keras.tree.flatten(masks)


def input_structure(model, inputs=None):
    """What a model is called with: KerasTensors `(None, ...)` in the structure that `predict` takes.

    Args:
        model: A built Keras model.
        inputs: For a model that does not say it, example data or KerasTensors. Left out, the shapes are those that the
            model was built with, and the numbers are floats if the model takes them, else ints.

    Raises:
        ValueError: A subclassed model was built in a way that does not say what it takes, or does not take `inputs`.
    """
    if inputs is not None:
        specs = keras.tree.map_structure(lambda x: _spec(x.shape, _dtype(x)), inputs)
        return specs if is_graph(model) else _accepted(model, specs)
    if isinstance(model, keras.Sequential):
        return model.inputs[0]
    return model.input if getattr(model, "inputs", None) else _recorded_inputs(model)


def _accepted(model, specs):
    """Inputs that a subclassed model takes."""
    try:
        model.compute_output_spec(specs)
    except Exception as error:  # of the user's call
        shapes = keras.tree.map_structure(lambda x: tuple(x.shape), specs)
        raise ValueError(
            "inputs= must be what the model's `predict` takes, in the first argument of its `call`: a tensor, or a list or "
            f"dict of them. Received: shapes {shapes} for {type(model).__name__} '{model.name}', whose call ends with "
            f"{type(error).__name__}: {str(error).strip()[:300]}"
        ) from error
    return specs


def _recorded_inputs(model):
    config = build_config(model) or {}
    shapes = config.get("input_shape")
    failure = f"it was built with {config}" if shapes is None else None
    for dtype in (keras.config.floatx(), "int32") if shapes is not None else ():
        specs = keras.tree.map_shape_structure(lambda shape, dtype=dtype: _spec(shape, dtype), shapes)
        try:
            model.compute_output_spec(specs)
            return specs
        except Exception as error:  # of the user's call, on inputs that it does not take
            failure = failure or f"on inputs of the shapes that it was built with, {shapes}, its call ends with: {error}"
    raise ValueError(
        "A subclassed model must say what it takes in one argument (a tensor, or a list or dict of them). Received: "
        f"{type(model).__name__} '{model.name}'; {failure}. Pass pack(models, inputs=...), with example data or keras.Input "
        "in the structure that the model is called with."
    )


def _spec(shape, dtype):
    return keras.KerasTensor((None, *shape[1:]), dtype)


def _dtype(x):
    """Keras feeds a model of floats with float32 arrays, whatever the arrays in memory are."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    return keras.config.floatx() if dtype == "float64" and not isinstance(x, keras.KerasTensor) else dtype


def copy_inputs(model, rename, inputs=None, axes=None):
    """Fresh inputs for a model like this one, in the structure that `predict` takes.

    Args:
        model: A built Keras model.
        rename: Called with each input's name, gives the name of the fresh one.
        inputs: As for `input_structure`.
        axes: For each input, in flat order, a tuple of the sizes of new axes after that of the rows.
    """
    structure = input_structure(model, inputs)
    configs = [{**config, "name": rename(config["name"])} for config in _input_configs(model, structure)]
    for config, new in zip(configs, axes or ()):
        rows, *rest = config["batch_shape"]
        config["batch_shape"] = (rows, *new, *rest)
    fresh = [keras.layers.InputLayer.from_config(config).output for config in configs]
    return keras.tree.pack_sequence_as(structure, fresh)


def _input_configs(model, structure):
    """The configs of the input layers of a model, in flat order."""
    if is_graph(model):
        return [layer.get_config() for layer in input_layers(model)]
    names, flat = keras.tree.flatten(_input_keys(structure)), keras.tree.flatten(structure)
    return [{"batch_shape": tuple(x.shape), "dtype": x.dtype, "name": name} for x, name in zip(flat, names)]


def _input_keys(structure, name="inputs"):
    """Inputs of a dict have the names of its keys, or Keras warns at every call."""
    if isinstance(structure, dict):
        return {key: _input_keys(x, str(key)) for key, x in structure.items()}
    if isinstance(structure, (list, tuple)):
        return [_input_keys(x, name) for x in structure]
    return name


def output_names(model, outputs):
    """A name for each of the outputs of a model."""
    if is_graph(model):
        return keras.tree.flatten(_map_leaves(lambda leaf: leaf[0], as_functional(model).get_config()["output_layers"]))
    return [model.name] * len(keras.tree.flatten(outputs))


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


class _Leaf:
    """An output of a graph: a node, and which of its tensors."""

    def __init__(self, node, tensor):
        self.node, self.tensor = node, tensor


def _output_node(leaf, operations):
    """Outputs count the node that a nested Functional model begins with; the arguments of calls do not."""
    name, index, _ = leaf
    return name, index - (is_graph(operations[name]) and not isinstance(operations[name], keras.Sequential))


def _in_order(nodes, outputs):
    """The nodes of a graph as Keras runs them: the farther from the outputs, the earlier.

    Those equally far too must be in Keras's order: a layer that takes the masks off its inputs leaves none to the next.
    """
    sources = {key: [source for source in _references(node) if source in nodes] for key, node in nodes.items()}
    depths, of_layers = {}, {}
    for key in reversed(_data_first(sources, outputs)):
        depths[key] = of_layers[key[0]] = max(depths.get(key, 0), of_layers.get(key[0], 0))
        for source in sources[key]:
            depths[source] = max(depths.get(source, 0), depths[key] + 1)
    return sorted(depths, key=depths.get, reverse=True)


def _data_first(sources, outputs):
    """The nodes in an order in which each comes after its sources, found from the outputs on, depth first."""
    found, seen, waiting = [], set(), [(key, False) for key in reversed(outputs)]
    while waiting:
        key, is_done = waiting.pop()
        if is_done:
            found.append(key)
        elif key in sources and key not in seen:
            seen.add(key)
            waiting += [(key, True), *((source, False) for source in reversed(sources[key]))]
    return found


def _references(item):
    """The nodes that a node's config names."""
    if isinstance(item, dict):
        if item.get("class_name") == "__keras_tensor__":
            yield tuple(item["config"]["keras_history"][:2])
        else:
            for key in sorted(item):  # as Keras flattens arguments
                yield from _references(item[key])
    elif isinstance(item, (list, tuple)):
        for value in item:
            yield from _references(value)


def _revive(item, values):
    """The arguments of a call from their config."""
    if isinstance(item, dict):
        if item.get("class_name") == "__keras_tensor__":
            name, index, k = item["config"]["keras_history"]
            return values[name, index][k]
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
