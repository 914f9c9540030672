"""Programs of torch that write into the memory that they have: new memory costs more than most arithmetic of a layer.

A torch program computes operation after operation, and each takes fresh memory for its result, which the system has to map
and clear. Where the first operand of an elementwise operation is an intermediate result that nothing else reads, the result
is written over it.
"""

import operator

import torch

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
VIEWS = {aten.view.default, aten.permute.default, aten.transpose.int, aten.unsqueeze.default, operator.getitem}


def write_in_place(traced):
    """Change a `torch.fx.GraphModule` of ATen operations so that it reuses memory; its numbers stay the same bits.

    Its inputs are never written to.
    """
    for node in traced.graph.nodes:
        if node.target in IN_PLACE and _may_be_written(node):
            node.target = IN_PLACE[node.target]
    traced.recompile()
    return traced


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
