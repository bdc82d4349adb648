"""Put a fine-tuned slim network into the zoo that comes with the package. For maintainers.

    python scripts/bundle.py SLIM [--base BASE] --dataset cifar10 --data FOLDER

SLIM and BASE are checkpoint folders: the slim network, and the trained one that it was made from. Writes
``zoo_slim/zoo/ARCHITECTURE/pruned-VARIANT/`` in half precision, and the model card beside it; what is in ``samples/``
stays as it is. The accuracies are measured here, on all test images; the slim network's after it was read back from the
file in half precision. Without BASE, what the slim checkpoint records of it stays; the size of its file is among that
only where the slim network comes from the zoo.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from zoo_slim import checkpoint
from zoo_slim.hub._card import Facts, write_card
from zoo_slim.slimming import count_macs, count_params
from zoo_slim.training import Dataset, evaluate, load_dataset
from zoo_slim.training._evaluate import protocol
from zoo_slim.training._history import as_base

DATASETS = ("cifar10", "fashion-mnist", "mnist")


def main() -> None:
    """Read the command line, bundle, and say what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slim", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--dataset", required=True, choices=DATASETS)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the data set")
    parser.add_argument("--variant", help="default: the slim checkpoint's")
    zoo = Path(__file__).resolve().parent.parent / "zoo_slim" / "zoo"
    parser.add_argument("--zoo", type=Path, default=zoo, help="default: the package's")
    arguments = parser.parse_args()
    data = load_dataset(arguments.dataset, arguments.data)
    folder = bundle(arguments.slim, data, arguments.zoo, arguments.variant, arguments.base)
    config = checkpoint.read_config(folder)
    for name, metrics in (("base", config.base), ("slim", config.metrics)):
        print(name, json.dumps(metrics))
    print(f"saved {folder} ({config.files[checkpoint.MODEL].bytes:,} bytes of weights)")


def bundle(slim: Path, data: Dataset, zoo: Path, variant: str | None = None, base: Path | None = None) -> Path:
    """Write the variant and the card; return the variant's folder.

    Args:
        slim: folder of the slim network.
        data: the data set that it was trained on.
        zoo: folder of the zoo.
        variant: tag; default: the slim checkpoint's own.
        base: folder of the trained network that it was made from; default: what is recorded of it stays.
    """
    model = checkpoint.load_folder(slim)
    origin = checkpoint.origin_of(model)
    assert origin is not None and origin.result is not None, f"{slim} is not slim"
    tag = variant or origin.variant
    assert tag is not None, "name the variant: --variant 0.75"
    training = {**origin.training, "dataset": data.name, "evaluation": protocol("float16", data)}
    base_metrics = origin.base
    if base is not None:
        base_config = checkpoint.read_config(base)
        assert (base_config.architecture, base_config.options) == (origin.architecture, origin.options), "not the base"
        tested = {"dataset": data.name, "evaluation": protocol(base_config.stored_dtype, data)}
        training["base"] = as_base({**base_config.training, **tested})
        size = {"file_bytes": base_config.files[checkpoint.MODEL].bytes, "file_dtype": base_config.stored_dtype}
        base_metrics = {**_metrics(checkpoint.load_folder(base), data), **size}
    with tempfile.TemporaryDirectory() as scratch:
        cast = checkpoint.save(model, Path(scratch) / "cast", variant=tag, dtype=torch.float16)
        model = checkpoint.load_folder(cast)
    tuned = {key: value for key, value in origin.metrics.items() if key not in ("test_accuracy", "params", "macs")}
    home = zoo / origin.architecture
    folder = checkpoint.save(
        model,
        home / f"{checkpoint.VARIANT_PREFIX}{tag}",
        variant=tag,
        dtype=torch.float16,
        metrics={**tuned, **_metrics(model, data)},
        base=base_metrics,
        training=training,
    )
    write_readme(home)
    return folder


def write_readme(home: Path) -> None:
    """Write the card of a model's variants as a push would; what people wrote around the generated part stays."""
    readme = home / "README.md"
    old = readme.read_text(encoding="utf-8") if readme.is_file() else None
    configs = {
        tag: checkpoint.read_config(home / f"{checkpoint.VARIANT_PREFIX}{tag}") for tag in checkpoint.variants(home)
    }
    readme.write_text(write_card(old, configs, Facts(f"zoo-slim/{home.name}")), encoding="utf-8")


def _metrics(model: torch.nn.Module, data: Dataset) -> dict[str, Any]:
    image = torch.rand(1, *data.input_size)
    accuracy = evaluate(model, data)["accuracy"]
    return {"test_accuracy": accuracy, "params": count_params(model), "macs": count_macs(model, image)}


if __name__ == "__main__":
    main()
