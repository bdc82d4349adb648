"""Residual blocks that can be taken out whole: found by what they compute, whatever they are called."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo_slim._containers import with_tensors
from zoo_slim._errors import SlimmingError
from zoo_slim._networks import copy_of
from zoo_slim._replacement import REPLACEMENTS, Zeros, is_within
from zoo_slim.slimming._select import Keep
from zoo_slim.slimming._verify import randomize
from zoo_slim.tracing import Example, call_model, meta_copy, to_device

__all__ = ["BlockSearch"]

_ACTIVATIONS = [name for name in REPLACEMENTS if name != Zeros.__name__]


@dataclass(frozen=True)
class _Call:
    """Tensors are on the meta device, or as the model was given them where it does not run there."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    altered: bool


class BlockSearch:
    """The residual blocks of a model.

    A block is a module ``act(x + branch(x))`` whose branch is 0 where all of the block's parameters are. It is found by
    running a copy of the module on random numbers, with its parameters set to zero, in float64 and evaluation mode: it
    must give its input, or one of torch's activations of it. Of blocks made of nothing but blocks, these count alone.

    Args:
        model: with real weights, which are not read; buffers are, where they are no statistics. It is not changed.
        example: what to call it with.

    Raises:
        SlimmingError: the model does not run on the example.
    """

    def __init__(self, model: nn.Module, example: Example) -> None:
        self._model = model
        self._modules = dict(model.named_modules())
        self._calls, self._refused = _observe(model, example)
        self._known: dict[str, str | None] = {}
        self._branches: dict[str, tuple[str, ...]] = {}
        self._owners: dict[int, list[str]] = {}
        for name, module in self._modules.items():
            for part in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                self._owners.setdefault(id(part), []).append(name)

    def blocks(self) -> dict[str, str]:
        """All blocks: ``{module name: what is left of it without its branch}``, a name in `REPLACEMENTS`."""
        deepest_first = sorted(self._calls, key=lambda name: -name.count("."))
        known = {name: self.becomes(name) for name in deepest_first}
        return {name: becomes for name in self._modules if (becomes := known.get(name)) is not None}

    def becomes(self, name: str) -> str | None:
        """What is left of a module without its branch; None for one that is no block, see `refusal`."""
        if name not in self._known:
            self._known[name] = self._examine(name) if name in self._calls else None
        return self._known[name]

    def called_in(self, block: str) -> list[str]:
        """The outermost modules in a block that give a tensor for a tensor like it."""
        inside = [name for name in self._calls if is_within(name, block) and name != block]
        return [name for name in inside if not any(is_within(name, other) and name != other for other in inside)]

    def branches(self, block: str) -> tuple[str, ...]:
        """The modules in a block that add to its input one by one, ``attn`` and ``mlp`` of a transformer's; at least 2.

        They are the fewest and largest modules called in it which, all zero, leave nothing of the branch.
        """
        if block not in self._branches:
            self._branches[block] = self._find_branches(block)
        return self._branches[block]

    def _find_branches(self, block: str) -> tuple[str, ...]:
        branches = [name for name in self.called_in(block) if self._is_zero(name)]
        if self._left(block, zeroed=branches) is None:
            return ()
        for name in sorted(branches, key=lambda name: sum(part.numel() for part in self._modules[name].parameters())):
            fewer = [other for other in branches if other != name]
            if self._left(block, zeroed=fewer) is not None:
                branches = fewer
        return tuple(branches) if len(branches) > 1 else ()

    def is_cut(self, name: str, dead: Mapping[str, tuple[int, Keep]]) -> bool:
        """Whether a block or branch gives nothing of its own but constants once no weight in it reads dead channels.

        Args:
            name: of a block, or of one of its branches.
            dead: ``{weight: (axis that reads, where it reads dead channels)}``, bool ``[n]``, or ``[g, n]`` on axis 1.
        """

        def cut(probe: nn.Module) -> None:
            for local, part in (*probe.named_parameters(), *probe.named_buffers()):
                if local.endswith(("bias", "running_mean")):
                    part.zero_()
                if f"{name}.{local}" in dead:
                    _zero_slices(part, *dead[f"{name}.{local}"])

        becomes = self.becomes(name)
        if becomes is None:
            return all(not output.any() for _, output in self._run(name, [], cut))
        return self._left(name, [], cut) == becomes

    def refusal(self, name: str) -> str:
        """Why a module is not a block."""
        if name not in self._modules:
            return "the model has no such module"
        return self._refused.get(name, "its forward pass does not call it, or it has no parameters")

    def _examine(self, name: str) -> str | None:
        module = self._modules[name]
        inner = [other for other in self._calls if is_within(other, name) and other != name]
        if isinstance(module, nn.Sequential) or (not inner and type(module).__module__.startswith("torch.nn.modules.")):
            self._refused[name] = f"a {type(module).__name__} adds nothing to its input: name the blocks in it, if any"
            return None
        owners = [owner for part in (*module.parameters(), *module.buffers()) for owner in self._owners[id(part)]]
        outside = next((owner for owner in owners if not is_within(owner, name)), None)
        if outside is not None:
            self._refused[name] = f"it shares a parameter or buffer with {outside!r}, outside of it"
            return None
        becomes = self._left(name, zeroed=[name])
        if becomes is None:
            self._refused[name] = (
                f"this {type(module).__name__}, with all of its parameters zero, gives neither its input nor an "
                "activation of it: it is not residual, or scales what passes beside the branch"
            )
            return None
        parts = [other for other in inner if self.becomes(other) is not None]
        if parts and self._left(name, zeroed=parts) is not None:
            self._refused[name] = f"it consists of blocks: name those in it, such as {parts[0]!r}"
            return None
        if becomes == "Identity" and any(call.altered for call in self._calls[name]):
            self._refused[name] = "its output is changed in place later on, which would change its input too"
            return None
        return becomes

    def _left(self, name: str, zeroed: list[str], edit: Callable[[nn.Module], None] | None = None) -> str | None:
        """What a module computes where the parameters of ``zeroed`` (itself, or modules in it) are zero."""
        found = set()
        for x, output in self._run(name, zeroed, edit):
            names = (kind for kind in _ACTIVATIONS if _equal(output, REPLACEMENTS[kind]()(x)))
            found.add(next(names, None))
        return found.pop() if len(found) == 1 else None

    def _is_zero(self, name: str) -> bool:
        return all(not output.any() for _, output in self._run(name, [name]))

    @torch.no_grad()
    def _run(
        self, name: str, zeroed: list[str], edit: Callable[[nn.Module], None] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The input and output of each call; other parameters are random. Ends early at a call that fails."""
        module = self._modules[name]
        zero = {id(part) for other in zeroed for part in self._modules[other].parameters()}
        memo: dict[int, object] = {}
        for part in module.parameters():
            memo[id(part)] = nn.Parameter(torch.zeros(part.shape, dtype=_wide(part)), part.requires_grad)
        try:
            probe = copy.deepcopy(module, memo).cpu().double().eval()
            randomize(probe)
            for part in module.parameters():
                if id(part) in zero:
                    memo[id(part)].zero_()  # type: ignore[attr-defined]
            if edit is not None:
                edit(probe)
            generator = torch.Generator("cpu").manual_seed(0)
            for call in self._calls[name]:
                args, kwargs = _random(call.args, generator), _random(call.kwargs, generator)
                x = args[0].clone()
                yield x, probe(*args, **kwargs)
        except Exception:
            yield torch.zeros(1), torch.full((1,), torch.nan)


def _observe(model: nn.Module, example: Example) -> tuple[dict[str, list[_Call]], dict[str, str]]:
    """The calls of each module that may be a block, and why the others cannot."""
    try:
        return _observe_on(meta_copy(model), to_device(example, "meta"))
    except Exception:
        try:
            return _observe_on(copy_of(model), example)
        except Exception as error:
            raise SlimmingError(
                f"{type(model).__name__} does not run on the example input: {error}. Check that it is what the model "
                "expects."
            ) from error


def _observe_on(model: nn.Module, example: Example) -> tuple[dict[str, list[_Call]], dict[str, str]]:
    seen: dict[str, list[tuple[tuple[Any, ...], Mapping[str, Any], Tensor, int]]] = {}
    refused: dict[str, str] = {}

    def watch(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
            reason = _unlike(args, output)
            if reason is not None:
                refused[name] = reason
            else:
                seen.setdefault(name, []).append((args, dict(kwargs), output, output._version))

        return note

    for name, module in model.named_modules():
        if name and not isinstance(module, torch.jit.ScriptModule) and next(module.parameters(), None) is not None:
            module.register_forward_hook(watch(name), with_kwargs=True)
    with torch.no_grad():
        call_model(model.eval(), example)
    calls = {
        name: [_Call(args, kwargs, output._version != version) for args, kwargs, output, version in group]
        for name, group in seen.items()
        if name not in refused
    }
    return calls, refused


def _unlike(args: tuple[Any, ...], output: Any) -> str | None:
    """Why a call is not one that gives a tensor for a tensor like it."""
    if not args or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
        return "its first argument is no tensor of numbers"
    if not isinstance(output, Tensor):
        return f"it gives a {type(output).__name__}, not one tensor"
    if output.shape != args[0].shape or output.dtype != args[0].dtype:
        return f"its input has shape {list(args[0].shape)}, its output {list(output.shape)}; both must agree"
    return None


def _zero_slices(weight: Tensor, axis: int, dead: Keep) -> None:
    if dead.ndim == 1:
        weight.movedim(axis, 0)[torch.from_numpy(dead)] = 0
    else:
        for block, row in zip(weight.chunk(len(dead)), dead, strict=True):
            block[:, torch.from_numpy(row)] = 0


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.is_floating_point() else tensor.dtype


def _random(value: Any, generator: torch.Generator) -> Any:
    """The same arguments with random numbers in float64, and zeros in tensors of other kinds.

    Half of the numbers are large, as ReLU and ReLU6 differ there alone.
    """

    def change(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            numbers = torch.randn(tensor.shape, dtype=torch.float64, generator=generator, device="cpu")
            return numbers * 20.0 ** torch.randint(2, tensor.shape, generator=generator, device="cpu")
        return torch.zeros(tensor.shape, dtype=tensor.dtype)

    return with_tensors(value, change)


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    pairs = [(part.flatten()[:256], whole.flatten()[:256]) for part, whole in [(one, other)]] + [(one, other)]
    return all(torch.allclose(*pair, rtol=1e-12, atol=1e-12) for pair in pairs)  # most differ in the first numbers
