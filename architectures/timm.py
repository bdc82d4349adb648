"""All models of timm, as ``timm/NAME``; NAME may carry a tag, as in ``timm/resnet50.a1_in1k``."""

import re
from functools import partial
from typing import Any, Literal

from torch import nn

from zoo_slim import Architecture

from ._bundled import schema_of

_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")


def build(
    name: str,
    num_classes: int | None = None,
    in_chans: int | None = None,
    drop_rate: float | None = None,
    drop_path_rate: float | None = None,
    global_pool: Literal["", "avg", "max", "avgmax", "catavgmax", "fast", "token", "map"] | None = None,
) -> nn.Module:
    """Return a timm model. Options left at None are the model's own; a tag sets what its weights need (classes, sizes).

    Args:
        name: a name in timm's registry, with or without a tag.
        num_classes: outputs of the last layer.
        in_chans: channels of the images.
        drop_rate: dropout in front of the last layer; most models take it.
        drop_path_rate: stochastic depth; models without residual branches refuse it.
        global_pool: pooling in front of the last layer; which kinds a model takes depends on the model.
    """
    import timm

    options: dict[str, Any] = {
        "num_classes": num_classes,
        "in_chans": in_chans,
        "drop_rate": drop_rate,
        "drop_path_rate": drop_path_rate,
        "global_pool": global_pool,
    }
    model: nn.Module = timm.create_model(
        name, pretrained=False, **{option: value for option, value in options.items() if value is not None}
    )
    return model


class TimmFamily:
    """The models that the installed timm knows."""

    prefix = "timm/"

    def names(self) -> list[str]:
        """All names, without tags. Imports timm."""
        import timm

        return [self.prefix + name for name in timm.list_models()]

    def find(self, name: str) -> Architecture | None:
        """The architecture ``timm/NAME``, or None. Imports timm if the name begins with ``timm/``."""
        model = name.removeprefix(self.prefix)
        if model == name or not _NAME.fullmatch(model):
            return None
        import timm

        if not timm.is_model(model):
            return None
        try:
            config: Any = timm.get_pretrained_cfg(model)
        except RuntimeError:  # timm knows the model, but not the tag
            return None
        size = (3, 224, 224) if config is None else tuple(config.input_size)
        return Architecture(name, partial(build, model), size, schema=schema_of(name) or schema_of(name.split(".")[0]))


family = TimmFamily()
