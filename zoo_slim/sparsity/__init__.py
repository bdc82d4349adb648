"""Sparsity training on BatchNorm scales: penalties, what each scale counts in them, and schedules of their strength."""

from zoo_slim.sparsity._penalty import PENALTIES, Penalty, make_penalty, update_bn_grad
from zoo_slim.sparsity._schedule import SCHEDULES, strength_at
from zoo_slim.sparsity._weights import group_weights

__all__ = [
    "PENALTIES", "SCHEDULES", "Penalty", "group_weights", "make_penalty", "strength_at", "update_bn_grad",
]  # fmt: skip
