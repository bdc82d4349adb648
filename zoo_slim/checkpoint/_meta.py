"""Build an architecture without weights: its shapes, its integers and its buffers."""

import threading
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from zoo_slim._errors import CheckpointError, ZooSlimError
from zoo_slim.registry import Architecture
from zoo_slim.result import PruningResult, slice_tensor

__all__ = ["build_on_meta", "build_real", "fill_buffers", "named_tensors", "shapes_of"]


_INITIALISERS = frozenset(
    {
        *("add_", "clamp_", "clamp_max_", "clamp_min_", "copy_", "div_", "erfinv_", "fill_", "mul_", "neg_", "pow_"),
        *("sub_", "trunc_", "zero_"),
        *("bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "normal_", "random_", "uniform_"),
    }
)
_CPU = torch.device("cpu")


class _WithoutValues(TorchFunctionMode):
    """Tensors on the meta device have no values: what would write some is skipped, and they say they are on the CPU.

    The latter because a builder that asks may leave buffers empty, or make them on the meta device too.

    Attributes:
        missed: whether something could not be computed for want of values.
    """

    missed = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        written = args[0] if args else (kwargs or {}).get("tensor")  # `torch.nn.init` passes it by that name
        if isinstance(written, Tensor) and written.is_meta:
            name = func.__name__
            if name in _INITIALISERS or getattr(func, "__module__", None) == "torch.nn.init":
                return written
            if name == "__get__" and func.__self__.__name__ == "device":
                return _CPU
            if name == "__get__" and func.__self__.__name__ == "is_meta":
                return False
        try:
            return func(*args, **(kwargs or {}))
        except Exception:
            self.missed |= _lacks_values([*args, *(kwargs or {}).values()])
            raise


def _lacks_values(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_lacks_values, value))
    return isinstance(value, Tensor) and value.is_meta


def build_on_meta(architecture: Architecture, options: dict[str, Any]) -> nn.Module:
    """Build a network whose parameters are on the meta device. No initialiser of a parameter runs.

    Each parameter is moved there as it is registered, so that only one is ever held, and none is written to. Buffers,
    and tensors that the builder computes with, are real: some networks decide their widths with them. Where a builder
    reads a parameter's values, the network is built with real weights instead. Other threads, and the state of the
    random number generator, are not affected.

    Raises:
        RegistryError: an option that the architecture does not take.
        CheckpointError: the builder failed.
    """
    architecture.check(options)
    builder_thread = threading.get_ident()

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or threading.get_ident() != builder_thread:
            return None
        if parameter.untyped_storage().device.type == "meta":  # its own `device` says otherwise here
            return None
        meta = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
        try:
            torch.utils.swap_tensors(parameter, meta)
        except RuntimeError:
            return meta
        return None

    with torch.random.fork_rng(devices=[]):
        handle = register_module_parameter_registration_hook(to_meta)  # type: ignore[arg-type]
        without = _WithoutValues()
        try:
            with without:
                return build_real(architecture, options)
        except ZooSlimError:
            if not without.missed:
                raise
        finally:
            handle.remove()
        return build_real(architecture, options)


def build_real(architecture: Architecture, options: dict[str, Any]) -> nn.Module:
    """Build a network with random weights.

    Raises:
        RegistryError: an option that the architecture does not take.
        CheckpointError: the builder failed.
    """
    try:
        return architecture.build(**options)
    except ZooSlimError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"architecture {architecture.name!r} cannot be built with the options {options}:"
            f" {type(error).__name__}: {error}"
        ) from error


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict with the model's own tensors, shared ones under each of their names.

    Raises:
        CheckpointError: the state dict holds something that is not a tensor.
    """
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{name}: the state dict of {type(model).__name__} holds a {type(value).__name__} here; a slim"
                " checkpoint holds tensors only"
            )
    return state


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter and buffer (those that are not saved too), by name."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tuple(tensor.shape) for name, tensor in named}


def fill_buffers(
    model: nn.Module,
    state: Collection[str],
    original: nn.Module,
    architecture: Architecture,
    options: dict[str, Any],
    result: PruningResult | None,
    dtype: torch.dtype,
) -> None:
    """Give a network the buffers that are not in the state dict, cut and cast like the rest.

    Where one could only be made on the meta device, all are taken from a network with weights, which exists for this
    moment only.

    Args:
        model: the network, slim if ``result`` is given; it may be ``original`` itself.
        state: the names of its state dict.
        original: the whole network, built on the meta device.
        architecture: its architecture, built with ``options``.
        options: see there.
        result: what the model keeps of it; None: all.
        dtype: what buffers of the default floating dtype become.
    """
    names = [name for name, _ in model.named_buffers(remove_duplicate=False) if name not in state]
    if not names:
        return
    buffers = dict(original.named_buffers(remove_duplicate=False))
    if any(buffers[name].is_meta for name in names):
        with torch.random.fork_rng(devices=[]):
            buffers = dict(build_real(architecture, options).named_buffers(remove_duplicate=False))
    kept = {} if result is None else result.kept
    made: dict[int, Tensor] = {}
    for name in names:
        if name not in buffers:
            raise CheckpointError(f"{name}: architecture {architecture.name!r} does not build this buffer every time")
        buffer = buffers[name]
        if id(buffer) not in made:
            part = slice_tensor(buffer.detach(), kept[name]) if name in kept else buffer.detach()
            made[id(buffer)] = part.to(dtype if part.dtype == torch.get_default_dtype() else None)
        module, _, attribute = name.rpartition(".")
        model.get_submodule(module)._buffers[attribute] = made[id(buffer)]
