"""A pruning schema of our format or of the original tool's, from whatever holds one."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo_slim.schema._file import contents_of, document_of, loads
from zoo_slim.schema._original import OriginalSchema, parse_original
from zoo_slim.schema._schema import PruningSchema

__all__ = ["SchemaLike", "as_schema"]

SchemaLike = PruningSchema | OriginalSchema | Mapping[str, Any] | str | os.PathLike[str]
"""A schema, the document of a schema file, or the file's path."""


def as_schema(given: SchemaLike) -> PruningSchema | OriginalSchema:
    """Read a schema, of our format if it names one, else of the original's.

    Raises:
        SchemaError: the file is missing, too large, not JSON, or a schema of neither format.
    """
    if isinstance(given, (PruningSchema, OriginalSchema)):
        return given
    where = "schema"
    if isinstance(given, (str, os.PathLike)):
        where = str(given)
        given = document_of(contents_of(Path(given)), where)
    if isinstance(given, Mapping) and "format" in given:
        return loads(json.dumps(given), where)
    return parse_original(given, where)
