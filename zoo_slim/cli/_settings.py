"""The training settings as options of a command: each is said once, in `zoo_slim.training.Settings`."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import typer

from zoo_slim.training._settings import Settings

__all__ = ["given_options", "refuse_idle", "takes_changes", "takes_settings"]

Command = Callable[..., None]

_FIELDS = {field.name: field for field in dataclasses.fields(Settings)}


def given_options(context: typer.Context, names: Iterable[str]) -> list[str]:
    """Return, of some parameters, those that were given on the command line, spelled as options."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return [
        f"--{name.replace('_', '-')}"
        for name, source in sources.items()
        if source is not None and source.name == "COMMANDLINE"
    ]


def refuse_idle(context: typer.Context, needed: str, there: object, names: Iterable[str]) -> None:
    """Refuse parameters that were given on the command line although what they need is not ``there``.

    Args:
        context: the command's.
        needed: what to add, as an option.
        there: whether it was given.
        names: of the parameters.
    """
    if not there and (idle := given_options(context, names)):
        raise typer.BadParameter(f"{' and '.join(idle)} would have no effect: add {needed}, or leave it out")


def takes_settings(**defaults: Any) -> Callable[[Command], Command]:
    """Replace a command's parameter ``settings`` by an option for each setting.

    The command gets a `Settings`; ``defaults`` are those that differ from its own.
    """

    def make(given: Mapping[str, Any]) -> Settings:
        return Settings(**given)

    options = {name: _option(name, defaults.get(name, field.default)) for name, field in _FIELDS.items()}
    return functools.partial(_replace, "settings", options, make)


def takes_changes(parameter: str, names: tuple[str, ...], **defaults: Any) -> Callable[[Command], Command]:
    """Replace a command's parameter by an option ``--PARAMETER-NAME`` for each name of a setting.

    The command gets a dict of those that are given or have a default here.
    """

    def make(given: Mapping[str, Any]) -> dict[str, Any]:
        values = {name: given[f"{parameter}_{name}"] for name in names}
        return {name: value for name, value in values.items() if value is not None}

    options = {f"{parameter}_{name}": _option(name, defaults.get(name), f"{parameter}_") for name in names}
    return functools.partial(_replace, parameter, options, make)


def _option(name: str, default: Any, prefix: str = "") -> inspect.Parameter:
    field = _FIELDS[name]
    kind: Any = type(field.default)
    long = f"--{prefix}{name}".replace("_", "-")
    start = f"--{prefix}".replace("_", "-")
    spellings = [long, *(spelling.replace("--", start, 1) for spelling in field.metadata["spellings"])]
    bounds: dict[str, Any] = {}
    if kind is bool:
        spellings = [f"{long}/--no-{long[2:]}"]
    elif kind is int:
        bounds = {"min": field.metadata["least"], "max": field.metadata["most"]}
    text = field.metadata["help"] if not prefix else f"The same for the {prefix.rstrip('_').replace('_', '-')} part."
    if default is None:
        kind = kind | None
    annotated: Any = Annotated  # the type is known at run time only
    annotation = annotated[kind, typer.Option(*spellings, help=text, **bounds)]
    return inspect.Parameter(prefix + name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _replace(
    parameter: str, options: dict[str, inspect.Parameter], make: Callable[[Mapping[str, Any]], Any], command: Command
) -> Command:
    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        values = {name: given.pop(name) for name in options}
        command(**given, **{parameter: make(values)})

    parameters: list[inspect.Parameter] = []
    for known in inspect.signature(command).parameters.values():
        added = options.values() if known.name == parameter else [known]
        parameters += [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in added]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
    return wrapper
