"""A criterion of one's own."""

import numpy as np
from torch import nn

from zoo_slim import PruningSchema


def peak(model: nn.Module, schema: PruningSchema) -> np.ndarray:
    """The largest absolute weight among those that write a channel; NaN for channels that no layer writes."""
    modules = dict(model.named_modules())
    scores = np.full(schema.channels, np.nan)
    for name, layer in schema.layers.items():
        if layer.outputs is not None and not layer.transposed:
            largest = modules[name].weight.detach().abs().flatten(1).amax(1).double().cpu().numpy()
            present = layer.outputs >= 0
            np.fmax.at(scores, layer.outputs[present], largest[present])
    return scores
