"""Training: data sets, sparsity training, fine-tuning, and runs that survive being killed."""

from zoo_slim.training._data import DATASETS, Dataset, ImageTensors, load_dataset
from zoo_slim.training._evaluate import evaluate
from zoo_slim.training._loop import fit
from zoo_slim.training._loss import classification_loss
from zoo_slim.training._settings import Settings, TrainingError, seed_everything

__all__ = [
    "DATASETS",
    "Dataset",
    "ImageTensors",
    "Settings",
    "TrainingError",
    "classification_loss",
    "evaluate",
    "fit",
    "load_dataset",
    "seed_everything",
]
