"""Accuracy right after slimming: plain removal, constants folded, statistics recalibrated, and both.

    python benchmarks/lossless.py runs/small_vgg --data ~/cifar10 --classes 0,2,4,6,8

Prints a Markdown table. No network is fine-tuned.
"""

import argparse
import itertools
import json
import os
import platform
import shlex
import sys
from pathlib import Path

import small_networks
import torch
from torch import nn

import zoo_slim
from zoo_slim import checkpoint
from zoo_slim.training import evaluate, load_dataset

BATCH = 64
WAYS = ("plain", "folded", "recalibrated", "both")


def slimmed(model: nn.Module, ratio: float, batches: list[torch.Tensor]) -> dict[str, nn.Module]:
    """The slim network by each way."""
    plain, result = zoo_slim.slim(model, ratio=ratio)
    again, _ = zoo_slim.slim(model, ratio=ratio)
    folded, _ = zoo_slim.fold_constants(model, result)
    both, _ = zoo_slim.fold_constants(model, result)
    for network in (again, both):
        zoo_slim.recalibrate(network, batches)
    return dict(zip(WAYS, (plain, folded, again, both), strict=True))


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--ratios", default="0.1,0.2,0.3,0.4,0.5,0.6,0.7,auto")
    parser.add_argument("--batches", type=int, default=16, help=f"of {BATCH} training images, for the statistics")
    parser.add_argument("--classes", default="", help="measure on the images of these labels alone, with commas")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    data = load_dataset(options.dataset, options.data)
    if options.classes:
        data = small_networks.of_classes(data, tuple(map(int, options.classes.split(","))))
    model = checkpoint.load_folder(options.checkpoint).eval()
    drawn = data.train_batches(BATCH, seed=0, epoch=0, device=torch.device("cpu"))
    batches = [images for images, _ in itertools.islice(drawn, options.batches)]
    cliff = zoo_slim.find_cliff(model)
    base = evaluate(model, data)
    count = len(cliff.scales)
    print(f"`python benchmarks/lossless.py {shlex.join(sys.argv[1:])}`\n")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread; torch {torch.__version__}, "
        f"zoo_slim {zoo_slim.__version__}. {checkpoint.read_config(options.checkpoint).architecture}, "
        f"{base['accuracy']:.2%} of {base['count']} test images of {data.name}; {cliff.dead} of {count} scales are "
        f"exactly 0 ({cliff.dead / count:.1%}), {cliff.faint} below 1 % of the RMS; cliff at {cliff.ratio:.3f}.\n"
    )
    print("| ratio | variance lost | " + " | ".join(WAYS) + " |\n|---:|---:|" + "---:|" * len(WAYS))
    rows = []
    for text in options.ratios.split(","):
        ratio = cliff.ratio if text == "auto" else float(text)
        lost = float(cliff.lost[min(round(ratio * 100), 99)])
        accuracies = {way: evaluate(net, data)["accuracy"] for way, net in slimmed(model, ratio, batches).items()}
        rows.append({"ratio": ratio, "lost": lost, **accuracies})
        label = f"{ratio:.3f} (auto)" if text == "auto" else text
        print(
            f"| {label} | {lost:.1%} | " + " | ".join(f"{100 * accuracies[way]:.2f}" for way in WAYS) + " |", flush=True
        )
    if options.json is not None:
        options.json.write_text(json.dumps({"base": base, "cliff": cliff.ratio, "dead": cliff.dead, "rows": rows}))


if __name__ == "__main__":
    main()
