"""Pruning schemas: what they hold, and the files that they are read from."""

from zoo_slim.schema._either import SchemaLike, as_schema
from zoo_slim.schema._file import dumps, loads, read_schema, write_schema
from zoo_slim.schema._original import OriginalSchema, convert_original, parse_original, read_original
from zoo_slim.schema._schema import Axes, Group, Layer, PruningSchema, attribute_value, fingerprint, model_tensors

__all__ = [
    "Axes", "Group", "Layer", "OriginalSchema", "PruningSchema", "SchemaLike", "as_schema", "attribute_value",
    "convert_original", "dumps", "fingerprint", "loads", "model_tensors", "parse_original", "read_original",
    "read_schema", "write_schema",
]  # fmt: skip
