"""Programs of torch that write into the memory that they have: new memory costs more than most arithmetic of a layer.

A torch program computes operation after operation, and each takes fresh memory for its result, which the system has to map
and clear. A batched product starts from its bias in place of an addition after it. Where the first operand of an elementwise
operation is an intermediate result that nothing else reads, the result is written over it.
"""

import math
import operator

import torch
from keras import tree

aten = torch.ops.aten

IN_PLACE = {  # elementwise, the result as large as the first operand
    aten.add.Tensor: aten.add_.Tensor,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.div.Tensor: aten.div_.Tensor,
    aten.relu.default: aten.relu_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
    aten.tanh.default: aten.tanh_.default,
    aten.silu.default: aten.silu_.default,
    aten.elu.default: aten.elu_.default,
    aten.leaky_relu.default: aten.leaky_relu_.default,
    aten.gelu.default: aten.gelu_.default,
    aten.hardtanh.default: aten.hardtanh_.default,
    aten.hardswish.default: aten.hardswish_.default,
    aten.clamp.default: aten.clamp_.default,
    aten.clamp_min.default: aten.clamp_min_.default,
    aten.exp.default: aten.exp_.default,
    aten.rsqrt.default: aten.rsqrt_.default,
}
FRESH = {  # their results share no memory with anything
    aten.mm.default,
    aten.bmm.default,
    aten.addmm.default,
    aten.baddbmm.default,
    aten.convolution.default,
    aten.cat.default,
    aten.native_batch_norm.default,
    aten.native_layer_norm.default,
    *IN_PLACE,
    *IN_PLACE.values(),
}
CONVOLUTIONS = {aten.convolution.default, aten.convolution_backward.default}
VIEWS = {aten.view.default, aten.permute.default, aten.transpose.int, aten.unsqueeze.default, operator.getitem}


def write_in_place(traced):
    """Change a `torch.fx.GraphModule` of ATen operations so that it reuses memory.

    Its inputs are never written to. Its numbers stay the same bits, but for sums of a product and a bias, whose rounding
    is that of another order.
    """
    leave_out_copies(traced.graph)
    for node in traced.graph.find_nodes(op="call_function", target=aten.add.Tensor):
        _join_to_product(node)
    traced.graph.eliminate_dead_code()
    for node in traced.graph.nodes:
        if node.target in IN_PLACE and _may_be_written(node):
            node.target = IN_PLACE[node.target]
    traced.recompile()
    return traced


def leave_out_copies(graph):
    """Have convolutions read the original of a copy that is laid out as it is: Keras lays out images twice, there and back.

    Of what a `torch.fx.Graph` of ATen operations writes to, no copy is left out.
    """
    changed = written_to(graph)
    for node in graph.find_nodes(op="call_function", target=aten.clone.default):
        original = node.args[0]
        while original.target is aten.clone.default:
            original = original.args[0]
        is_read_alone = CONVOLUTIONS.issuperset(user.target for user in node.users) and _made_by(original) not in changed
        if is_read_alone and _layout(node) == _layout(original) is not None:
            node.replace_all_uses_with(original)


def written_to(graph):
    """The nodes that made the memory that operations of a graph write to."""
    pairs = [(schema_of(node), node.args) for node in graph.nodes if schema_of(node)]
    arguments = [pair for schema, args in pairs for pair in zip(schema.arguments, args)]
    written = [value for argument, value in arguments if argument.alias_info and argument.alias_info.is_write]
    return set(map(_made_by, tree.flatten(written)))


def _made_by(node):
    """The node that made the memory of which another node's result is a view."""
    while node.target is operator.getitem or (schema_of(node) and any(y.alias_info for y in schema_of(node).returns)):
        node = node.args[0]
    return node


def schema_of(node):
    return getattr(node.target, "_schema", None) if node.op == "call_function" else None


def _layout(node):
    return getattr(node.meta.get("tensor_meta"), "stride", None)


def _join_to_product(node):
    """`bmm(x, kernel) + bias` as `baddbmm(bias, x, kernel)`, where the bias is an input, one number a column."""
    total, bias = node.args[:2]
    product, given = _source(total), _source(bias)
    if not _is_product_alone(product, total) or not _is_one_a_column(product, total, bias, given):
        return
    members, _, columns = _shape(product)
    graph = node.graph
    with graph.inserting_before(product):
        start = graph.call_function(aten.view.default, (given, [members, 1, columns]))
        joined = graph.call_function(aten.baddbmm.default, (start, *product.args))
    joined.meta = dict(product.meta)
    product.replace_all_uses_with(joined)
    node.replace_all_uses_with(joined if total is product else total)
    graph.erase_node(node)
    graph.erase_node(product)


def _source(node):
    """What a node is a view of."""
    while isinstance(node, torch.fx.Node) and node.target in VIEWS and node.target is not operator.getitem:
        node = node.args[0]
    return node


def _is_product_alone(product, total):
    """Whether it is a `bmm`, which `total` has in the order of its memory, and nothing else reads."""
    is_product = isinstance(product, torch.fx.Node) and product.target is aten.bmm.default
    return is_product and _nothing_else_reads(total) and _is_in_order(total)


def _is_one_a_column(product, total, bias, given):
    """Whether `bias` is a whole input, its axes those of `total` but for the rows, along which it is repeated."""
    if not isinstance(bias, torch.fx.Node) or given.op != "placeholder" or not (_is_in_order(given) and _is_in_order(bias)):
        return False
    members, _, columns = _shape(product)
    shape, own = _shape(total), _shape(bias)
    last = next((k for k in range(1, len(shape)) if math.prod(shape[k:]) == columns), None)
    fits = last is not None and tuple(own) == (members, *[1] * (last - 1), *shape[last:])
    return fits and product.meta["tensor_meta"].dtype == bias.meta["tensor_meta"].dtype


def _shape(node):
    return tuple(node.meta["tensor_meta"].shape)


def _is_in_order(node):
    """Whether a result has its numbers in the order of its axes."""
    meta = node.meta.get("tensor_meta")
    return meta is not None and torch.empty_strided(meta.shape, meta.stride, device="meta").is_contiguous()


def _may_be_written(node):
    first, *others = node.args
    return first not in others and _alike(first, node) and _nothing_else_reads(first)


def _alike(a, b):
    """Whether two results have one shape and dtype."""
    metas = [node.meta.get("tensor_meta") for node in (a, b)]
    return None not in metas and len({(tuple(m.shape), m.dtype) for m in metas}) == 1


def _nothing_else_reads(node):
    while len(node.users) == 1 and node.target in VIEWS:
        node = node.args[0]
    return len(node.users) == 1 and node.target in FRESH
