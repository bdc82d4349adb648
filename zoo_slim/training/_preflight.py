"""What can be known to fail before a run begins."""

import json
import math
from pathlib import Path

from torch import nn

from zoo_slim._errors import SchemaError
from zoo_slim.training._settings import TrainingError

__all__ = ["check_ratio", "check_schema"]


def check_ratio(ratio: float) -> None:
    """Compare with what slimming takes.

    Raises:
        TrainingError: not ``0 <= ratio < 1``.
    """
    if not (math.isfinite(ratio) and 0 <= ratio < 1):
        hint = f"; for {ratio:g} % write {ratio / 100:g}" if 1 < ratio < 100 else ""
        raise TrainingError(
            f"the prune ratio is the share of the channels to remove, 0 <= ratio < 1, not {ratio!r}{hint}"
        )


def check_schema(file: str | Path, model: nn.Module) -> None:
    """Read a schema file of either format and compare it with the model, whose weights may be on the meta device.

    Raises:
        SchemaError: it cannot be read, or was made for another model.
    """
    from zoo_slim.schema import convert_original, loads, parse_original

    try:
        text = Path(file).read_text(encoding="utf-8")
        document = json.loads(text)
    except OSError as error:
        raise SchemaError(f"schema {file} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"schema {file} is not JSON: {error}") from None
    if isinstance(document, dict) and "format" in document:
        loads(text, str(file)).check(model)
    else:
        convert_original(parse_original(document, str(file)), model)
