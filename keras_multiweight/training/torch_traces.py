"""Torch code without its Python: the operations that a function runs, as a TorchScript program."""

import operator
import warnings

from keras import tree


def traced(function, example):
    """The program of a function of tensors: it runs without gradients, and changes its arguments where the function does.

    Args:
        function: Function of tensors that returns a tuple of tensors, and takes no decision by their numbers.
        example: Tuple of tensors.
    """
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = _lean(make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*example))
    if any(node.target is torch.ops.aten._local_scalar_dense.default for node in graph.graph.nodes):
        return graph  # a number that is read from a tensor, SGD's learning rate, would be a constant of the program
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the numbers of rows are always as many
        return torch.jit.trace(graph, tuple(t.clone() for t in example), check_trace=False)


def _lean(module):
    """Leave out of a graph what is idle without gradients: detaching, copies of constants, and results that no one reads."""
    import torch

    from keras_multiweight.prediction.inplace import leave_out_copies, written_to

    changed = written_to(module.graph)
    for node in list(module.graph.nodes):
        is_copy = node.target is torch.ops.aten.lift_fresh_copy.default and node not in changed
        if is_copy or node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    leave_out_copies(module.graph)
    module.graph.eliminate_dead_code()
    for node in list(module.graph.nodes):
        _write_over_argument(node)
    module.recompile()
    return module


def _write_over_argument(node):
    """Have an operation write its results over its first arguments, where the graph made these and no one else reads them:
    memory that was just read is written sooner than other memory.
    """
    in_place = _in_place(node)
    results = node.meta.get("val")
    arguments = tree.flatten(node.args[0]) if in_place else []
    pairs = list(zip(arguments, tree.flatten(results)))
    if not pairs or len(pairs) < len(arguments) or not all(_can_hold(node, *pair) for pair in pairs):
        return
    node.target = in_place
    for user in list(node.users) if isinstance(results, list) else ():  # which takes one result by its number
        user.replace_all_uses_with(arguments[user.args[1]])
        user.graph.erase_node(user)


def _in_place(node):
    """The operation that writes over its first argument what that of a node returns, `add_` for `add`, or None."""
    import torch

    from keras_multiweight.prediction.inplace import schema_of

    schema = schema_of(node)
    if not _is_new(node):
        return None
    packet = getattr(torch.ops.aten, node.target.overloadpacket.__name__ + "_", None)
    found = getattr(packet, node.target._overloadname, None)
    return found if found and _names(found._schema) == _names(schema) else None


def _names(schema):
    return [(argument.name, str(argument.type)) for argument in schema.arguments]


def _can_hold(node, argument, result):
    """Whether nothing but a node reads the memory of an argument, and its result has the same form."""
    if node not in getattr(argument, "users", ()) or len(argument.users) > 1:  # a number has none
        return False
    inputs = [n for n in tree.flatten((node.args, node.kwargs)) if n is argument]
    made = argument.args[0] if argument.target is operator.getitem else argument
    value = argument.meta["val"]
    return len(inputs) == 1 and _is_new(made) and (value.shape, value.dtype) == (result.shape, result.dtype)


def _is_new(node):
    """Whether an operation returns memory of its own."""
    from keras_multiweight.prediction.inplace import schema_of

    schema = schema_of(node)
    return schema is not None and not schema.is_mutable and not any(returned.alias_info for returned in schema.returns)
