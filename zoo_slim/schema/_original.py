"""The schema format of the original tool, pns: a list of layers with the BatchNorm before and after each."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from zoo_slim._errors import SchemaError
from zoo_slim._union_find import Ids
from zoo_slim.schema._file import contents_of, document_of
from zoo_slim.schema._schema import ROUNDINGS, Group, Layer, PruningSchema, is_share

__all__ = ["OriginalSchema", "convert_original", "parse_original", "read_original"]


@dataclass(frozen=True)
class OriginalSchema:
    """A parsed file of the original format; all names carry the prefix.

    Attributes:
        modules: ``{layer: (BatchNorm that it reads, BatchNorm that it writes)}``, ``""`` for none.
        shortcuts: BatchNorms whose channels go together, and how they are merged. Sets that share a name are joined.
        cats: ``{layer: BatchNorms whose concatenation it reads}``.
        fixed: ``{BatchNorm: share to remove there}``.
        rounding: ``none``, ``eight`` or ``two_pow``.
    """

    modules: Mapping[str, tuple[str, str]]
    shortcuts: Sequence[tuple[tuple[str, ...], Literal["or", "and"]]]
    cats: Mapping[str, tuple[str, ...]]
    fixed: Mapping[str, float]
    rounding: Literal["none", "eight", "two_pow"] = "none"

    def without(self, prefix: str) -> "OriginalSchema":
        """The same, of the network inside a wrapper such as DataParallel, whose names begin with ``module.``."""

        def cut(name: str) -> str:
            return name.removeprefix(prefix)

        return replace(
            self,
            modules={cut(name): (cut(before), cut(after)) for name, (before, after) in self.modules.items()},
            shortcuts=[(tuple(map(cut, names)), method) for names, method in self.shortcuts],
            cats={cut(name): tuple(map(cut, norms)) for name, norms in self.cats.items()},
            fixed={cut(name): ratio for name, ratio in self.fixed.items()},
        )


def read_original(path: str | os.PathLike[str]) -> OriginalSchema:
    """Read a schema file of the original format.

    Raises:
        SchemaError: the file is missing, too large, not JSON or not of that format.
    """
    return parse_original(document_of(contents_of(Path(path)), str(path)), str(path))


def parse_original(document: object, where: str = "schema") -> OriginalSchema:
    """Check and parse a document of the original format: keys ``prefix``, ``modules``, ``shortcuts``, ….

    Raises:
        SchemaError: naming the entry, what was found and what was expected.
    """
    if not isinstance(document, dict) or not isinstance(document.get("modules"), list):
        raise SchemaError(f"{where}: expected an object with a list 'modules', as the original tool writes it")
    known = {
        "prefix",
        "modules",
        "shortcuts",
        "cats",
        "depthwise_conv_adjacent_bn",
        "fixed_bn_ratio",
        "channel_rounding",
    }
    if unknown := sorted(set(document) - known):
        raise SchemaError(f"{where}: unknown key {unknown[0]!r}; expected some of {', '.join(sorted(known))}")
    prefix = document.get("prefix", "")
    if not isinstance(prefix, str):
        raise SchemaError(f"{where}: prefix must be a string")

    def full(name: object, place: str, *, empty: bool = False) -> str:
        if not isinstance(name, str) or not (name or empty):
            raise SchemaError(
                f"{where}: {place}: {name!r} is not the name of a module" + (" (give '' for none)" if empty else "")
            )
        return prefix + name if name else ""

    modules = {}
    for number, entry in enumerate(document["modules"]):
        place = f"modules[{number}]"
        fields = _entry(entry, {"name", "prev_bn", "next_bn"}, where, place)
        if (layer := full(fields.get("name"), f"{place}.name")) in modules:
            raise SchemaError(f"{where}: {place}: the layer {layer!r} is there twice")
        modules[layer] = (
            full(fields.get("prev_bn", ""), f"{place}.prev_bn", empty=True),
            full(fields.get("next_bn", ""), f"{place}.next_bn", empty=True),
        )
    shortcuts: list[tuple[tuple[str, ...], Literal["or", "and"]]] = []
    for key in ("shortcuts", "depthwise_conv_adjacent_bn"):
        for number, entry in enumerate(_list(document.get(key, []), where, key)):
            place = f"{key}[{number}]"
            fields = _entry(entry, {"names", "method"}, where, place)
            names = tuple(full(name, f"{place}.names") for name in _list(fields.get("names"), where, f"{place}.names"))
            if not names:
                raise SchemaError(f"{where}: {place}.names must not be empty")
            method = fields.get("method", "or")
            if method not in ("or", "and"):
                raise SchemaError(f"{where}: {place}.method: {method!r} must be 'or' or 'and'")
            shortcuts = _joined(shortcuts, names, method)
    cats = {}
    for number, entry in enumerate(_list(document.get("cats", []), where, "cats")):
        place = f"cats[{number}]"
        fields = _entry(entry, {"names", "input_bn_names", "output_conv_names"}, where, place)
        inputs = _list(fields.get("input_bn_names"), where, f"{place}.input_bn_names")
        for name in _list(fields.get("output_conv_names"), where, f"{place}.output_conv_names"):
            cats[full(name, place)] = tuple(full(norm, place) for norm in inputs)
    fixed = {}
    for number, entry in enumerate(_list(document.get("fixed_bn_ratio", []), where, "fixed_bn_ratio")):
        place = f"fixed_bn_ratio[{number}]"
        fields = _entry(entry, {"name", "ratio"}, where, place)
        ratio = fields.get("ratio")
        if not is_share(ratio):
            raise SchemaError(f"{where}: {place}.ratio: {ratio!r} is not a share from 0 up to, but not including, 1")
        given = fields.get("name")
        for name in given if isinstance(given, list) else [given]:
            fixed[full(name, f"{place}.name")] = float(ratio)
    rounding = document.get("channel_rounding", "none")
    if rounding not in ROUNDINGS:
        raise SchemaError(f"{where}: channel_rounding: {rounding!r} must be 'none', 'eight' or 'two_pow'")
    return OriginalSchema(modules, shortcuts, cats, fixed, rounding)


def _entry(entry: object, fields: set[str], where: str, place: str) -> dict[str, Any]:
    if not isinstance(entry, dict) or set(entry) - fields:
        raise SchemaError(f"{where}: {place}: expected an object of {', '.join(sorted(fields))}, not {entry!r}")
    return entry


def _list(value: object, where: str, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise SchemaError(f"{where}: {place} must be a list, not {type(value).__name__}")
    return value


def _joined(
    sets: list[tuple[tuple[str, ...], Literal["or", "and"]]], names: tuple[str, ...], method: Literal["or", "and"]
) -> list[tuple[tuple[str, ...], Literal["or", "and"]]]:
    """Add a set; those that share a name become one, merged as the first of them was."""
    shared = [part for part in sets if set(part[0]) & set(names)]
    rest = [part for part in sets if part not in shared]
    merged = dict.fromkeys(name for part in [*(part[0] for part in shared), names] for name in part)
    return [*rest, (tuple(merged), shared[0][1] if shared else method)]


def convert_original(original: OriginalSchema, model: nn.Module) -> PruningSchema:
    """Write an original schema down in the new form. Groups are named after their first BatchNorm.

    A group's ``ratio`` is set where all its BatchNorms have the same fixed one; what is particular to the original's
    selection (its threshold, its empty intersections) lives in `SlimPruner`.

    Raises:
        SchemaError: a module that the model does not have, or one of another kind or width.
    """
    modules = dict(model.named_modules())
    norms: dict[str, nn.modules.batchnorm._BatchNorm] = {}

    def norm(name: str) -> nn.modules.batchnorm._BatchNorm:
        module = modules.get(name)
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            what = "which the model does not have" if module is None else f"which is a {type(module).__name__}"
            raise SchemaError(f"the schema names the BatchNorm {name!r}, {what}")
        norms[name] = module
        return module

    if unknown := sorted(original.cats.keys() - original.modules.keys()):
        raise SchemaError(f"the schema's cats name the layer {unknown[0]!r}, which is none of its modules")
    sets = list(original.shortcuts)
    grouped = {name for names, _ in sets for name in names}
    for name, ends in original.modules.items():
        for end in (*ends, *original.cats.get(name, ())):
            if end and end not in grouped:
                grouped.add(end)
                sets.append(((end,), "or"))
    groups: dict[str, Group] = {}
    channels: dict[str, Ids] = {}
    start = 0
    for names, method in sets:
        widths = {norm(name).num_features for name in names}
        if len(widths) != 1:
            raise SchemaError(f"{', '.join(names)} are to be merged but have widths {sorted(widths)}")
        width = widths.pop()
        ratios = {original.fixed.get(name) for name in names}
        groups[names[0]] = Group(width, method, ratios.pop() if len(ratios) == 1 else None)
        for name in names:
            channels[name] = np.arange(start, start + width, dtype=np.int64)
        start += width
    if unknown := sorted(original.fixed.keys() - channels.keys()):
        raise SchemaError(f"the schema's fixed_bn_ratio names {unknown[0]!r}, which no layer of it reads or writes")
    layers = {}
    for name, (before, after) in original.modules.items():
        module = modules.get(name)
        if not isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            what = "which the model does not have" if module is None else f"which is a {type(module).__name__}"
            raise SchemaError(f"the schema names the layer {name!r}, {what}; expected a convolution or a Linear")
        sources = original.cats.get(name, (before,) if before else ())
        inputs = np.concatenate([channels[source] for source in sources]) if sources else None
        outputs = channels[after] if after else None
        if isinstance(module, nn.Linear):
            if inputs is not None:
                if module.in_features % len(inputs):
                    raise SchemaError(
                        f"{name}: {module.in_features} features do not divide into {len(inputs)} channels"
                    )
                inputs = inputs.repeat(module.in_features // len(inputs))
            layers[name] = Layer(inputs, outputs)
        else:
            layers[name] = Layer(inputs, outputs, module.groups, module.transposed)
    return PruningSchema(groups, layers, {name: channels[name] for name in norms}, rounding=original.rounding)
