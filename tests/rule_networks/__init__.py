"""Small networks, a few lines each, one for every way in which channels meet. Used by test_tracing_rules.py."""

import rule_networks._attributes
import rule_networks._calls
import rule_networks._convolutions
import rule_networks._norms
import rule_networks._products
import rule_networks._shapes
import rule_networks._slices
import rule_networks._sums
import rule_networks._unknown  # noqa: F401  these add their cases
from rule_networks._case import CASES, Case, Net, conv

__all__ = ["CASES", "Case", "Net", "conv"]
