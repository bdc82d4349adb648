"""Labels every channel of a model by one forward pass on meta tensors, and writes the groups down as a schema."""

from zoo_slim.tracing._meta import meta_copy
from zoo_slim.tracing._schema import schema_of, trace
from zoo_slim.tracing._trace import Example, Trace, call_model, run_trace, to_device, watch_modules

__all__ = [
    "Example", "Trace", "call_model", "meta_copy", "run_trace", "schema_of", "to_device", "trace", "watch_modules",
]  # fmt: skip
