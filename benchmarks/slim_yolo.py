"""A YOLO of ultralytics, trained sparsely, slimmed and fine-tuned by ultralytics' own trainer, on data of one's own.

    python slim_yolo.py data.yaml --ratio 0.5 --epochs 100

``data.yaml`` describes a data set the way ultralytics asks. Begins with random weights, unless ``--weights`` says more.
What is saved loads wherever ``yolov8n`` is registered: ``zoo-slim --import slim_yolo info runs/yolo/tuned-slim``.
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from ultralytics.data.utils import check_det_dataset
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel

import zoo_slim

MAP = "metrics/mAP50-95(B)"


@zoo_slim.register("yolov8n", input_size=(3, 640, 640))
def yolov8n(num_classes: int = 80) -> nn.Module:
    """The network as zoo_slim builds it when a checkpoint names it."""
    return DetectionModel("yolov8n.yaml", nc=num_classes, verbose=False)


class LastTrainer(DetectionTrainer):
    """Reports the averaged weights of the last epoch, which are those that are slimmed and saved here."""

    def final_eval(self) -> None:
        """Leave out the test of ``best.pt``: it was chosen on the same images."""


class SparseTrainer(LastTrainer):
    """Penalises the BatchNorm scales in every step."""

    strength = 1e-3

    def optimizer_step(self) -> None:
        """Add the penalty to gradients, which mixed precision has multiplied by its scale."""
        zoo_slim.update_bn_grad(self.model, s=self.strength * self.scaler.get_scale())
        super().optimizer_step()


class SlimTrainer(LastTrainer):
    """Trains the slim network, where ultralytics would build a whole one from its YAML file."""

    folder: Path

    def get_model(self, cfg: object = None, weights: object = None, verbose: bool = True) -> nn.Module:
        """Return the slim network with the weights that it was saved with."""
        return zoo_slim.load(self.folder)


def main() -> None:
    """Do all of it, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="data.yaml")
    parser.add_argument("--weights", default="yolov8n.yaml", help="a YOLOv8n; or its weights: yolov8n.pt")
    parser.add_argument("--ratio", type=float, default=0.5, help="share of channels to remove")
    parser.add_argument("--sparsity", type=float, default=SparseTrainer.strength)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--device", default=None)
    parser.add_argument("--output", type=Path, default=Path("runs/yolo"))
    given = parser.parse_args()
    same = {"data": given.data, "epochs": given.epochs, "imgsz": given.image_size, "device": given.device}
    same |= {"project": str(given.output.absolute()), "exist_ok": True}

    SparseTrainer.strength = given.sparsity
    sparse = SparseTrainer(overrides={**same, "model": given.weights, "name": "sparse"})
    sparse.train()
    model = sparse.ema.ema.cpu().float().eval()

    size = [3, given.image_size, given.image_size]
    example = torch.rand(2, *size)
    slim, result = zoo_slim.slim(model, ratio=given.ratio, example_input=example)
    exact = zoo_slim.verify(model, result, example).exact
    SlimTrainer.folder = given.output / "slim"
    classes = check_det_dataset(given.data)["names"].values()
    zoo_slim.save(
        slim,
        SlimTrainer.folder,
        architecture="yolov8n",
        options={"num_classes": len(classes)},
        result=result,
        classes=list(classes),
        input={"size": size, "mean": [0.0] * 3, "std": [1.0] * 3},
    )

    tuned = SlimTrainer(overrides={**same, "model": "yolov8n.yaml", "name": "tuned"})
    tuned.train()
    zoo_slim.save(tuned.ema.ema.float().eval(), given.output / "tuned-slim")

    for name, trainer in (("sparse", sparse), ("slim, trained as long again", tuned)):
        count = sum(part.numel() for part in trainer.ema.ema.parameters())
        print(f"{name}: {count:,} parameters, {MAP} {trainer.metrics[MAP]:.4f}")
    print(f"removal exact: {exact}")


if __name__ == "__main__":
    main()
