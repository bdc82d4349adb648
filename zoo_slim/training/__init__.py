"""Training: data sets, sparsity training, fine-tuning, and runs that survive being killed.

Importing this package does not import torch: every public name is loaded on first use.
"""

from typing import TYPE_CHECKING

from zoo_slim._lazy import on_first_use

if TYPE_CHECKING:
    from zoo_slim.training._data import DATASETS as DATASETS
    from zoo_slim.training._data import Dataset as Dataset
    from zoo_slim.training._data import ImageTensors as ImageTensors
    from zoo_slim.training._data import load_dataset as load_dataset
    from zoo_slim.training._evaluate import evaluate as evaluate
    from zoo_slim.training._loop import fit as fit
    from zoo_slim.training._loss import classification_loss as classification_loss
    from zoo_slim.training._randomness import seed_everything as seed_everything
    from zoo_slim.training._settings import Settings as Settings
    from zoo_slim.training._settings import TrainingError as TrainingError

_HOMES = {
    "DATASETS": "_data",
    "Dataset": "_data",
    "ImageTensors": "_data",
    "Settings": "_settings",
    "TrainingError": "_settings",
    "classification_loss": "_loss",
    "evaluate": "_evaluate",
    "fit": "_loop",
    "load_dataset": "_data",
    "seed_everything": "_randomness",
}

__all__ = [*_HOMES]

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
