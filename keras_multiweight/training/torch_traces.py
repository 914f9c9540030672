"""Torch code without its Python: the operations that a function runs, as a TorchScript program."""

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
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the numbers of rows are always as many
        return torch.jit.trace(graph, tuple(t.clone() for t in example), check_trace=False)


def _lean(module):
    """Leave out of a graph what is idle without gradients: detaching, copies of constants, and results that no one reads."""
    import torch

    changed = {_source(argument) for node in module.graph.nodes for argument in _written(node)}
    for node in list(module.graph.nodes):
        is_copy = node.target is torch.ops.aten.lift_fresh_copy.default and node not in changed
        if is_copy or node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _written(node):
    """The nodes whose tensors an operation changes in place."""
    arguments = zip(_schema(node).arguments, node.args) if _schema(node) else ()
    written = [value for argument, value in arguments if argument.alias_info and argument.alias_info.is_write]
    return tree.flatten(written)


def _source(node):
    """The node that made the tensor that another node views."""
    while _schema(node) and any(returned.alias_info for returned in _schema(node).returns):
        node = node.args[0]
    return node


def _schema(node):
    return getattr(node.target, "_schema", None) if node.op == "call_function" else None
