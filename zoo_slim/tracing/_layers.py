"""Convolution, products of matrices, normalisation, reduction and pooling."""

import numpy as np
from torch import Tensor

from zoo_slim.tracing._dims import Dim
from zoo_slim.tracing._ids import Ids
from zoo_slim.tracing._labels import Factor, drop_dims, full_ids, support
from zoo_slim.tracing._pointwise import join
from zoo_slim.tracing._state import Convolution, TraceState
from zoo_slim.tracing._table import Call, rule

__all__: list[str] = []


def _on_axis(ids: Ids, ndim: int, dim: int) -> Ids:
    return ids.reshape([-1 if axis == dim else 1 for axis in range(ndim)])


def _read(state: TraceState, left: list[Factor], right: list[Factor], reason: str) -> None:
    """A sum over an axis that both operands have. What is removed there must be zero in one of them."""
    if len(left) != len(right):
        for factor in (*left, *right):
            state.freeze(factor, f"{reason}: one of its operands has channels that stay")
        return
    for one, other in zip(left, right, strict=True):
        state.ids.unify(one.ids.ravel(), other.ids.ravel())
        masks = one.reads or other.reads
        if not masks:
            state.mark_inexact(one, f"{reason} of two activations: no weight can be masked")
        state.reads |= masks


@rule("convolution", "_convolution", "convolution_overrideable")
def convolution(state: TraceState, call: Call) -> None:
    source, weight, bias, groups = call["input"], call["weight"], call["bias"], call["groups"]
    out, transposed = call.out, call["transposed"]
    for tensor in (source, weight):
        for factor in state.label(tensor):
            if not support(factor) & {0, 1} or (tensor is source and 0 in support(factor)):
                state.freeze(factor, "convolved positions")
    if groups > 1:
        written = _grouped(state, call)
    else:
        axis_in, axis_out = (0, 1) if transposed else (1, 0)
        _read(state, state.along(source, 1), state.along(weight, axis_in), "convolution")
        written = [factor.ids.ravel() for factor in state.written_by(state.along(weight, axis_out))]
    if bias is not None:
        rows = tuple(Factor(ids) for ids in written)
        joined = join(state, [rows, state.label(bias)], [(out.shape[1],), bias.shape], "bias")
        written = [factor.ids for factor in joined]
    state.set(out, [Factor(_on_axis(ids, out.ndim, 1)) for ids in written])


def _grouped(state: TraceState, call: Call) -> list[Ids]:
    """Tie or balance the channels of a grouped convolution. Returns the ids of its outputs."""
    source, weight, groups = call["input"], call["weight"], call["groups"]
    channels_in, channels_out = source.shape[1], call.out.shape[1]
    inputs = state.flat(state.along(source, 1), source.shape, 1) or [np.zeros(channels_in, dtype=np.int64)]
    depthwise, asked = groups == channels_in, state.context.groups
    known = not call["transposed"] or (depthwise and channels_out == groups)
    if not known or len(inputs) != 1:
        state.freeze_all([source, weight], "a grouped convolution whose inputs stay, or that is transposed")
        return []
    given = inputs[0]
    if isinstance(asked, Dim) and not depthwise:
        asked.hold("its size is a number of groups")
    elif isinstance(asked, Dim):
        state.require_size(state.label(source), 1, asked, "convolved in groups of another tensor's size")
    elif depthwise and state.layer is None:
        state.freeze_all([source, weight], "a depthwise convolution whose number of groups is a constant in the code")
        return []
    if depthwise:
        outputs = state.flat(state.along(weight, 0), weight.shape, 0)
        if len(outputs) != 1:
            state.freeze_all([source, weight], "a depthwise convolution whose outputs stay")
            return []
        state.ids.unify(outputs[0].reshape(groups, -1), given[:, None])
        written = outputs[0]
    else:
        across = [factor for factor in state.label(weight) if 1 in support(factor)]
        rows = given.reshape(groups, 1, -1)
        for factor in across:
            ids = full_ids(factor, weight.shape, [0, 1]).reshape(groups, channels_out // groups, -1)
            state.ids.unify(ids, rows)
            if not factor.reads:
                state.mark_inexact(factor, "convolution of two activations: no weight can be masked")
            state.reads |= factor.reads
        if not across:
            state.ids.freeze(given, f"a grouped convolution whose inputs stay, in {state.where}")
        outputs = [full_ids(f, weight.shape, [0]).ravel() for f in state.label(weight) if support(f) == {0}]
        state.require_equal(given.reshape(groups, -1))
        if len(outputs) != 1:
            state.freeze_all([weight], "a grouped convolution whose outputs stay")
            return []
        written = outputs[0]
        state.require_equal(written.reshape(groups, -1))
    name = state.name(weight)
    if state.layer is not None and state.modules[-1][1].groups == groups:
        name = f"{state.layer}.weight"  # which may be shared, or what the one used is computed from
    state.convolutions.append(Convolution(name, groups, given, written))
    return [written]


def _product(state: TraceState, left: Tensor, right: Tensor, out: Tensor) -> None:
    """``[..., N, K] @ [..., K, M]``; leading dimensions are matched one by one."""
    ndim = out.ndim
    rows, columns = ndim - 2, ndim - 1
    sides: list[list[Factor]] = []
    for tensor, inner in ((left, columns), (right, rows)):
        side = []
        for factor in state.label(tensor):
            if inner in support(factor) and len(support(factor)) > 1:
                factor = state.collapse(factor, [inner])
            side.append(factor)
        sides.append(side)
    _read(
        state,
        [factor for factor in sides[0] if support(factor) == {columns}],
        [factor for factor in sides[1] if support(factor) == {rows}],
        "product",
    )
    labels, shapes = [], []
    # What a product of weights reads is still a weight's to mask; what activations meet, its readers'.
    weights = state.are_weights([left, right])
    for tensor, side, inner in ((left, sides[0], columns), (right, sides[1], rows)):
        outer = state.written_by([factor for factor in side if inner not in support(factor)])
        labels.append(tuple(factor if weights else Factor(factor.ids) for factor in outer))
        shapes.append([1 if dim == inner else size for dim, size in enumerate(tensor.shape)])
    state.set(out, join(state, labels, shapes, "product"))


@rule("mm", "bmm")
def matmul(state: TraceState, call: Call) -> None:
    _product(state, call["self"], call["mat2"], call.out)


@rule("addmm", "baddbmm")
def addmm(state: TraceState, call: Call) -> None:
    left, right = (call["mat1"], call["mat2"]) if "mat1" in call.arguments else (call["batch1"], call["batch2"])
    bias = call["self"]
    added = state.label(bias)  # before the output is labelled, which it may be
    _product(state, left, right, call.out)
    joined = join(state, [state.label(call.out), added], [call.out.shape, bias.shape], "bias")
    state.set(call.out, [Factor(factor.ids) for factor in joined])  # where masks leave zeros, the bias is added


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
      "miopen_batch_norm", "_batch_norm_with_update", "_batch_norm_no_update",
      "_native_batch_norm_legit_functional")  # fmt: skip
def batch_norm(state: TraceState, call: Call) -> None:
    source, out = call["input"], call.outputs[0]
    parameters = [call.arguments.get(name) for name in ("weight", "bias", "running_mean", "running_var")]
    present = [tensor for tensor in parameters if isinstance(tensor, Tensor)]
    label = []
    for factor in state.label(source):
        if support(factor) != {1}:
            state.mark_inexact(factor, "batch normalisation over it")
        label.append(factor)
    labels = [tuple(label)]
    shapes = [list(source.shape)]
    for tensor in present:
        labels.append(tuple(f.with_ids(_on_axis(f.ids, source.ndim, 1)) for f in state.label(tensor)))
        shapes.append([size if dim == 1 else 1 for dim, size in enumerate(source.shape)])
    joined = join(state, labels, shapes, "batch_norm")
    if name := state.name(parameters[0]):
        state.norms[name] = "batch_norm"
    state.set(out, joined)


@rule("native_layer_norm", "native_group_norm", "_fused_rms_norm", "rms_norm")
def channel_norm(state: TraceState, call: Call) -> None:
    """Normalisation over channels: what is removed would still count in its statistics."""
    source, out = call["input"], call.outputs[0]
    group = call.op._schema.name == "aten::native_group_norm"
    dims = {1} if group else set(range(source.ndim - len(call["normalized_shape"]), source.ndim))
    # What is normalised together goes together, where anything else can go: whole heads, say.
    apart = [not group and not support(factor) <= dims for factor in state.label(source)]
    own = [
        state.collapse(factor, dims) if whole else factor
        for factor, whole in zip(state.label(source), apart, strict=True)
    ]
    labels, shapes = [tuple(own)], [list(source.shape)]
    for factor in own:
        if dims & support(factor):
            state.mark_inexact(factor, "normalisation over channels")
            if group and support(factor) == {1}:
                state.require_equal(factor.ids.reshape(call["group"], -1))
            elif group:
                state.freeze(factor, "normalisation over groups of channels")
    for tensor in (call["weight"], call.arguments.get("bias")):  # of _fused_rms_norm there is none
        if isinstance(tensor, Tensor):
            tail = source.ndim - 2 if group else 0
            labels.append(tuple(f.with_ids(f.ids.reshape(*f.ids.shape, *[1] * tail)) for f in state.label(tensor)))
            shapes.append([*tensor.shape, *[1] * tail])
    joined = join(state, labels, shapes, "normalisation over channels")
    state.set(out, [Factor(factor.ids) for factor in joined])


@rule("mean", "sum", "amax", "amin", "prod", "any", "all", "var", "std", "var_mean", "std_mean", "linalg_vector_norm",
      "argmax", "argmin", "logsumexp", "norm", "max", "min", "median")  # fmt: skip
def reduction(state: TraceState, call: Call) -> None:
    source = call.first
    given = call.arguments.get("dim")
    dims = (
        {given % source.ndim} if isinstance(given, int) else {dim % source.ndim for dim in given or range(source.ndim)}
    )
    keep = bool(call.arguments.get("keepdim"))
    if "other" in call.arguments:
        state.freeze_all(call.tensors, "an operation without a rule")
        return
    label = []
    for factor in state.label(source):
        if support(factor) <= dims or (factor.reads and support(factor) & dims):
            state.mark_inexact(factor, "a reduction over channels")
        else:
            factor = state.collapse(factor, dims)
            label.append(Factor(factor.ids) if keep else drop_dims(Factor(factor.ids), dims))
    for out in call.outputs:
        state.set(out, label)


@rule("_softmax", "_safe_softmax", "_log_softmax", "softmax", "log_softmax", "cumsum", "cumprod", "sort", "topk")
def along_one_dim(state: TraceState, call: Call) -> None:
    source = call.first
    dim = call["dim"] % source.ndim
    resized = call.outputs[0].shape != source.shape
    label = []
    for factor in state.label(source):
        if dim in support(factor):
            if len(support(factor)) > 1:
                factor = state.collapse(factor, {dim})
            else:
                state.mark_inexact(factor, "softmax or order over channels")
                if resized:
                    state.freeze(factor, "as many of the channels as a constant says")
                    continue
        label.append(Factor(factor.ids))
    for out in call.outputs:
        state.set(out, label)


_SPATIAL = (
    "max_pool{}d_with_indices", "max_pool{}d", "avg_pool{}d", "_adaptive_avg_pool{}d", "adaptive_avg_pool{}d",
    "adaptive_max_pool{}d", "upsample_nearest{}d", "_upsample_nearest_exact{}d", "upsample_linear{}d",
    "upsample_bilinear{}d", "_upsample_bilinear{}d_aa", "upsample_bicubic{}d", "_upsample_bicubic{}d_aa",
    "upsample_trilinear{}d", "grid_sampler_{}d",
)  # fmt: skip


@rule(*(name.format(dims) for name in _SPATIAL for dims in (1, 2, 3)))
def spatial(state: TraceState, call: Call) -> None:
    source = call.first
    count = next(int(digit) for digit in call.op._schema.name if digit.isdigit())
    moved = set(range(source.ndim - count, source.ndim))
    for factor in state.label(source):
        if moved & support(factor):
            state.freeze(factor, "pooled or resized positions")
    for other in call.tensors[1:]:
        state.freeze_all([other], "where samples are taken")
    for out in call.outputs:
        state.set(out, [Factor(factor.ids) for factor in state.label(source) if not moved & support(factor)])


@rule("max_unpool2d", "max_unpool3d")
def unpooling(state: TraceState, call: Call) -> None:
    """Values put back where a pooling took maxima from: its channels are those of the values."""
    tensors = call["self"], call["indices"]
    moved = set(range(call.out.ndim - int(call.op._schema.name[-2]), call.out.ndim))
    for tensor in tensors:
        for factor in state.label(tensor):
            if moved & support(factor):
                state.freeze(factor, "unpooled positions")
    labels = [tuple(factor for factor in state.label(tensor) if not moved & support(factor)) for tensor in tensors]
    joined = join(state, labels, [tensor.shape for tensor in tensors], "places of maxima")
    state.set(call.out, [Factor(factor.ids) for factor in joined])


@rule("torchvision::roi_align", "torchvision::roi_pool")
def regions(state: TraceState, call: Call) -> None:
    """Regions of interest cut out of feature maps, resized: their channels are those of the maps."""
    source = call.first
    state.freeze_all(call.tensors[1:], "regions")
    for factor in state.label(source):
        if support(factor) != {1}:
            state.freeze(factor, "positions that regions are cut out of")
    label = [Factor(factor.ids) for factor in state.label(source) if support(factor) == {1}]
    for out in call.outputs:
        state.set(out, label if out.ndim == source.ndim else ())


@rule("_weight_norm_interface")
def weight_norm(state: TraceState, call: Call) -> None:
    """``g * v / |v|``, normed over all dimensions but one.

    Where slices of ``v`` that are read are masked with zeros, the norm is that of the rest. What is written counts in
    it. Along the one dimension ``g`` alone is masked, as a norm of 0 would give no numbers.
    """
    v, g = call["v"], call["g"]
    own = frozenset().union(*(factor.reads for factor in state.label(g)))
    label = []
    for factor in join(state, [state.label(v), state.label(g)], [v.shape, g.shape], "norm"):
        if support(factor) == {call.arguments.get("dim", 0) % v.ndim}:
            factor = Factor(factor.ids, own)
        else:
            state.normed |= factor.reads
        label.append(factor)
    state.set(call.out[0], label)
    state.set(call.out[1], ())
