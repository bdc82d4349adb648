"""One architecture: how it is built, what it is fed, and which options a file may set."""

import inspect
import re
import reprlib
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin

import torch
from torch import Tensor, nn

from zoo_slim._errors import RegistryError

if sys.version_info >= (3, 11):
    from importlib.resources.abc import Traversable
else:
    from importlib.abc import Traversable

__all__ = ["Architecture", "Option"]

Option = type[int] | type[float] | type[bool] | tuple[str, ...]
"""What a value may be: an int, a float, a bool, or one of the strings listed."""

LARGEST = 1_000_000
"""Bound on numbers: an int lies in 1..LARGEST, a float in -LARGEST..LARGEST."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_NOT_DATA = {"pretrained", "progress"}


@dataclass(frozen=True)
class Architecture:
    """A name and a builder.

    Attributes:
        name: letters, digits and ``_ . + -``, in parts joined by ``/``.
        builder: called with options as keywords; returns the model with random weights. Must not download.
        input_size: channels, height and width of the images that the default model takes.
        options: the keywords that a file may set, and what they may be: ``int``, ``float``, ``bool`` or a tuple of the
            strings allowed. None derives them from the builder's signature: parameters annotated so (a ``Literal`` of
            strings gives the tuple) or, without annotation, defaulted so. Parameters named ``pretrained`` and
            ``progress`` are never derived.
        schema: the bundled pruning schema (JSON), if there is one.

    Raises:
        RegistryError: a field is malformed.
    """

    name: str
    builder: Callable[..., nn.Module]
    input_size: tuple[int, int, int] = (3, 224, 224)
    options: Mapping[str, Option] = field(default=None, hash=False)  # type: ignore[arg-type]
    schema: Traversable | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise RegistryError(
                f"{self.name!r} cannot name an architecture: letters, digits and _ . + - were expected, in parts "
                "joined by /, each of which begins with a letter, a digit or _"
            )
        if not callable(self.builder):
            raise RegistryError(f"the builder of architecture {self.name!r} is {self.builder!r}, not a function")
        size = tuple(self.input_size) if isinstance(self.input_size, Iterable) else ()
        if len(size) != 3 or not all(type(length) is int and length > 0 for length in size):
            raise RegistryError(
                f"the input size of architecture {self.name!r} is {self.input_size!r}; "
                "(channels, height, width) was expected"
            )
        options = dict(_derive(self.builder) if self.options is None else self.options)
        for option, kind in options.items():
            if kind not in (int, float, bool) and not _is_strings(kind):
                raise RegistryError(
                    f"option {option!r} of architecture {self.name!r} is declared as {kind!r}; "
                    "int, float, bool or a tuple of strings was expected"
                )
        object.__setattr__(self, "input_size", size)
        object.__setattr__(self, "options", types.MappingProxyType(options))

    def check(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of ``options`` that is safe to build with; an int given for a float becomes one.

        Raises:
            RegistryError: an option that the architecture does not declare, a value of the wrong type, a number that
                is not finite, an int outside 1..1,000,000 or a float beyond +-1,000,000.
        """
        return {option: self._checked(option, value) for option, value in options.items()}

    def build(self, **options: Any) -> nn.Module:
        """Return a new model with random weights, in training mode. Never downloads.

        Works under ``torch.device("meta")`` as far as the builder does.

        Raises:
            RegistryError: options that `check` or the builder itself refuses.
        """
        checked = self.check(options)
        try:
            model = self.builder(**checked)
        except Exception as error:
            if not checked:
                raise
            given = ", ".join(f"{option}={value!r}" for option, value in checked.items())
            raise RegistryError(f"architecture {self.name!r} cannot be built with {given}: {error}") from error
        if not isinstance(model, nn.Module):
            raise RegistryError(
                f"the builder of architecture {self.name!r} returned {type(model).__name__}; a module was expected"
            )
        return model

    def class_count(self, options: Mapping[str, Any]) -> int | None:
        """Return the ``num_classes`` of a model built with ``options``; None: it is not known."""
        parameter = inspect.signature(self.builder).parameters.get("num_classes")
        count = options.get("num_classes", None if parameter is None else parameter.default)
        return count if type(count) is int else None

    def input_size_of(self, options: Mapping[str, Any]) -> tuple[int, int, int]:
        """Return channels, height and width of the images that a model built with ``options`` takes by default.

        ``in_chans``, timm's name for the number of channels, is heeded where the architecture has that option.
        """
        channels = options.get("in_chans") if "in_chans" in self.options else None
        return (channels or self.input_size[0], *self.input_size[1:])

    def example_input(
        self,
        batch_size: int = 2,
        size: int | Sequence[int] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        options: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Return images ``[batch_size, channels, height, width]``: the same on every call, uniform in [0, 1).

        Args:
            batch_size: 2 by default, because a batch of one hides which axis is which.
            size: side, ``(height, width)`` or ``(channels, height, width)`` instead of the architecture's.
            device: on the meta device the tensor holds no values.
            dtype: a floating-point type.
            options: what the model was built with, which may say how many channels; see `input_size_of`.

        Raises:
            RegistryError: a size of another form.
        """
        sides = (size, size) if isinstance(size, int) else tuple(size or ())
        shape = (batch_size, *self.input_size_of(options or {})[: 3 - len(sides)], *sides)
        if len(sides) > 3 or len(sides) == 1 or not all(type(length) is int and length > 0 for length in shape):
            raise RegistryError(
                f"an example input of batch {batch_size!r} and size {size!r} was asked of architecture {self.name!r}; "
                "a side, (height, width) or (channels, height, width) was expected, all positive"
            )
        if torch.device(device).type == "meta":
            return torch.empty(shape, device=device, dtype=dtype)
        values = torch.rand(shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        return values.to(device, dtype)

    def _checked(self, option: str, value: Any) -> Any:
        if option not in self.options:
            known = ", ".join(self.options) or "none"
            raise RegistryError(f"architecture {self.name!r} has no option {option!r}; its options are: {known}")
        kind = self.options[option]
        if isinstance(kind, tuple):
            expected, fits = "one of " + ", ".join(map(repr, kind)), isinstance(value, str) and value in kind
        elif kind is bool:
            expected, fits = "true or false", isinstance(value, bool)
        elif kind is int:
            expected, fits = f"an integer in 1..{LARGEST}", type(value) is int and 1 <= value <= LARGEST
        else:
            expected, fits = (
                f"a number of magnitude up to {LARGEST}",
                type(value) in (int, float) and abs(value) <= LARGEST,
            )
        if not fits:
            raise RegistryError(
                f"option {option!r} of architecture {self.name!r} is {reprlib.repr(value)}; {expected} was expected"
            )
        return float(value) if kind is float else value


def _is_strings(kind: object) -> bool:
    return isinstance(kind, tuple) and bool(kind) and all(isinstance(choice, str) for choice in kind)


def _derive(builder: Callable[..., nn.Module]) -> dict[str, Option]:
    try:
        parameters = inspect.signature(builder, eval_str=True).parameters.values()
    except NameError:
        parameters = inspect.signature(builder).parameters.values()
    except (TypeError, ValueError):
        return {}
    options = {}
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            kind = _kind(parameter)
            if kind is not None and parameter.name not in _NOT_DATA:
                options[parameter.name] = kind
    return options


def _kind(parameter: inspect.Parameter) -> Option | None:
    annotation = parameter.annotation
    if annotation is parameter.empty:
        annotation = type(parameter.default)
    if isinstance(annotation, str):
        annotation = {"int": int, "float": float, "bool": bool}.get(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        annotation = members[0] if len(members) == 1 else None
    if get_origin(annotation) is Literal:
        annotation = tuple(get_args(annotation))
        return annotation if _is_strings(annotation) else None
    return annotation if annotation in (int, float, bool) else None
