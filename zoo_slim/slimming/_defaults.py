"""What a model is called with, and its channel groups, where the caller does not say."""

from torch import nn

from zoo_slim._errors import SchemaError, SlimmingError
from zoo_slim.schema import PruningSchema, read_schema
from zoo_slim.tracing import Example, trace

__all__ = ["bundled_schema", "example_of", "schema_for"]


def schema_for(model: nn.Module, schema: PruningSchema | None, example_input: Example | None) -> PruningSchema:
    """The schema given, checked; by default the architecture's bundled one where it fits, or else a fresh trace.

    Raises:
        SchemaError: the schema does not fit the model.
        SlimmingError: the model cannot be traced, or there is no example to trace it with.
    """
    if schema is None:
        origin = getattr(model, "zoo_slim_origin", None)
        known = None if origin is None or origin.result is not None else bundled_schema(model, origin.architecture)
        return known or trace(model, example_of(model) if example_input is None else example_input)
    if not isinstance(schema, PruningSchema):
        raise SlimmingError(f"schema={schema!r} is no PruningSchema: read a file with zoo_slim.schema.read_schema")
    schema.check(model)
    return schema


def example_of(model: nn.Module) -> Example:
    origin = getattr(model, "zoo_slim_origin", None)
    if origin is None:
        raise SlimmingError(
            f"this {type(model).__name__} was not built by zoo_slim, so its input is not known: "
            "pass example_input=torch.zeros(2, 3, 224, 224), or what it is called with"
        )
    from zoo_slim.registry import registry

    architecture = registry().find(origin.architecture)
    return architecture.example_input(size=(origin.input or {}).get("size"), options=origin.options)


def bundled_schema(model: nn.Module, name: str) -> PruningSchema | None:
    """The schema file of the architecture of this name, where it has one and that fits the model."""
    from zoo_slim.registry import registry

    file = registry().find(name).schema
    if file is None:
        return None
    schema = read_schema(file)
    try:
        schema.check(model)
    except SchemaError:
        return None  # made for other options of the builder
    return schema
