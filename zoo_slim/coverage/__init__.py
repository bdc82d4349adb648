"""Coverage: many models, each traced, slimmed, verified and trained a step in a process of its own."""

from zoo_slim.coverage._bounded import Bounds
from zoo_slim.coverage._lines import read_lines
from zoo_slim.coverage._run import cover
from zoo_slim.coverage._table import BAD, markdown, summary, verdict, why

__all__ = ["BAD", "Bounds", "cover", "markdown", "read_lines", "summary", "verdict", "why"]
