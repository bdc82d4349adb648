"""What each BatchNorm scale counts in a penalty."""

import numpy as np
import torch
from torch import Tensor, nn

from zoo_slim._networks import unwrap
from zoo_slim.schema import PruningSchema

__all__ = ["group_weights"]


def group_weights(model: nn.Module, schema: PruningSchema) -> dict[str, Tensor]:
    """Weights by which each channel is penalised once, however many BatchNorms scale it.

    A channel that lies in ``k`` BatchNorms, as those of a residual sum do, counts ``1 / k`` in each. Without weights it
    is pressed ``k`` times as hard as one between two layers. A scale whose channel stays in any case (it lies in no
    group, or in one that is inexact or has the ratio 0) counts 0: it would be made small for nothing.

    Args:
        model: the network; of one in DataParallel or `torch.compile`, the network inside.
        schema: its channel groups.

    Returns:
        ``{BatchNorm's module name: float32 [C]}``, for all that have scales.

    Raises:
        SchemaError: the schema does not fit the model.
    """
    model = unwrap(model)
    schema.check(model)
    norms = {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and isinstance(module.weight, nn.Parameter)
    }
    counts = np.zeros(schema.channels + 1)  # the last entry is that of -1, what stays
    for name in norms.keys() & schema.norms.keys():
        np.add.at(counts, schema.norms[name], 1.0)
    shares = np.divide(1.0, counts, out=np.zeros_like(counts), where=counts > 0)
    shares[-1] = 0.0
    shares[:-1][schema.untouched()] = 0.0
    return {
        name: torch.from_numpy(shares[schema.norms.get(name, np.full(len(scale), -1))]).to(torch.float32)
        for name, scale in norms.items()
    }
