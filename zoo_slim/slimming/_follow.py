"""Let the channels stay that a network's forward depends on in a way that tracing does not see."""

from collections.abc import Callable, Collection
from dataclasses import replace

from torch import nn

from zoo_slim.result import PruningResult, apply_result
from zoo_slim.schema import PruningSchema
from zoo_slim.slimming._keep import result_from_keep
from zoo_slim.slimming._run_check import fault
from zoo_slim.slimming._select import Keep
from zoo_slim.tracing import Example

__all__ = ["fault_of", "hold", "unfollowed"]


def fault_of(result: PruningResult, probe: nn.Module, example: Example) -> str | None:
    """What is wrong with the network that a result gives, see `fault`; ``probe`` is the original on meta tensors."""
    network = apply_result(probe, result)
    found = fault(network, probe, example)
    if found is None and result.removed:  # without the same blocks the original computes the same operations
        found = fault(network, apply_result(probe, PruningResult().removing(result.removed)), example)
    return found


def hold(schema: PruningSchema, names: Collection[str]) -> PruningSchema:
    """The same schema with these groups left alone."""
    groups = {name: replace(group, ratio=0.0) if name in names else group for name, group in schema.groups.items()}
    return replace(schema, groups=groups)


def unfollowed(
    schema: PruningSchema, probe: nn.Module, example: Example, choose: Callable[[PruningSchema], Keep]
) -> list[str]:
    """The groups that have to stay whole for nothing to be wrong with the network, found by halving.

    Args:
        schema: the groups.
        probe: the original on meta tensors.
        example: what to call it with.
        choose: the channels to keep, by a schema in which all other groups are left alone.

    Returns:
        their names; none where no channels are the cause.
    """
    free = [name for name, group in schema.groups.items() if group.ratio != 0]
    go: list[str] = []
    stay: list[str] = []

    def settle(names: list[str]) -> None:
        trial = hold(schema, set(free).difference(go, names))
        if fault_of(result_from_keep(probe, trial, choose(trial)), probe, example) is None:
            go.extend(names)
        elif len(names) == 1:
            stay.extend(names)
        else:
            settle(names[: len(names) // 2])
            settle(names[len(names) // 2 :])

    settle(free)
    return stay
