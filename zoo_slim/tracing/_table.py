"""The table of rules: one small function per kind of ATen operation."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch._ops import OpOverload

from zoo_slim.tracing._state import TraceState

__all__ = ["RULES", "Call", "Rule", "rule"]


class Call:
    """One executed operation: its arguments by name, defaults filled in, and what it returned.

    ``shape`` is that of the first argument before it was executed.
    """

    def __init__(
        self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, shape: Sequence[int]
    ) -> None:
        self.op, self.out, self.shape = op, out, shape
        self.arguments = {argument.name: argument.default_value for argument in op._schema.arguments}
        self.arguments.update(zip(self.arguments, args, strict=False))
        self.arguments.update(kwargs)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def first(self) -> Any:
        return next(iter(self.arguments.values()))

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments, lists included, in order."""
        found: list[Tensor] = []
        for value in self.arguments.values():
            items = value if isinstance(value, (list, tuple)) else [value]
            found += [item for item in items if isinstance(item, Tensor)]
        return found

    @property
    def outputs(self) -> list[Tensor]:
        parts = self.out if isinstance(self.out, (list, tuple)) else [self.out]
        return [part for part in parts if isinstance(part, Tensor)]


Rule = Callable[[TraceState, Call], None]
RULES: dict[str, Rule] = {}
"""By the operation's name without overload, ``aten::add``; ``add_`` falls back to ``add``."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operations: ATen's by their names, others as ``namespace::name``."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name if "::" in name else f"aten::{name}"] = function
        return function

    return register
