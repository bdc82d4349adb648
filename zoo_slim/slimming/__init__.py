"""Slimming: criteria, selection, removal, and the proof that what is left computes the same."""

from zoo_slim.slimming._cliff import Cliff, find_cliff
from zoo_slim.slimming._cost import count_macs, count_params
from zoo_slim.slimming._criteria import Criterion
from zoo_slim.slimming._fold import Folding, fold_constants
from zoo_slim.slimming._keep import result_from_keep
from zoo_slim.slimming._original_result import from_original, to_original
from zoo_slim.slimming._pruner import SlimPruner
from zoo_slim.slimming._recalibrate import recalibrate
from zoo_slim.slimming._removal import find_blocks
from zoo_slim.slimming._score import list_criteria, over_batches, score
from zoo_slim.slimming._select import select
from zoo_slim.slimming._slim import slim
from zoo_slim.slimming._verify import TOLERANCE, Verification, randomize, training_step, verify

__all__ = [
    "TOLERANCE", "Cliff", "Criterion", "Folding", "SlimPruner", "Verification", "count_macs", "count_params",
    "find_blocks", "find_cliff", "fold_constants", "from_original", "list_criteria", "over_batches", "randomize",
    "recalibrate", "result_from_keep", "score", "select", "slim", "to_original", "training_step", "verify",
]  # fmt: skip
