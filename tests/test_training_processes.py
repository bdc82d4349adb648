"""Several processes on one run, started by ``accelerate launch``."""

import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import distributed, nn
from torch.nn import functional
from training_toys import changed, metrics, toy_data, toy_model

from zoo_slim.training import fit
from zoo_slim.training._batch_norm import SharedBatchNorm
from zoo_slim.training._state import read_state

RECIPE = {
    "accumulate": 2, "ema_decay": 0.9, "mixup": 0.4, "cutmix": 1.0, "cutout": 3, "penalty": "proximal",
    "checkpoint_seconds": 0,
}  # fmt: skip


class Double(nn.Module):
    """A network that computes in float64, so that rounding does not hide a difference."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = toy_model().double()
        self.inner[5].p = 0.0  # every process draws its own dropout

    def forward(self, images):
        return self.inner(images.double())


CHILD = textwrap.dedent(
    """
    import os, sys
    import torch
    sys.path.insert(0, sys.argv[1])
    from test_training_processes import RECIPE, Double
    from training_toys import changed, kill_at, toy_data
    from zoo_slim.training import fit
    torch.set_num_threads(1)
    model = Double()
    if os.environ["RANK"] == "1":
        kill_at(model, int(sys.argv[3]))
    fit(model, toy_data(), changed(**RECIPE), sys.argv[2], resume=True)
    """
)


def launch(script, folder, steps: int = -1) -> subprocess.CompletedProcess:
    """Train in two processes, one of which kills itself after so many parts of batches."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script.write_text(CHILD)
    options = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    words = [sys.executable, "-m", "accelerate.commands.launch", *options.split(), "--main_process_port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    here = os.path.dirname(__file__)
    return subprocess.run(
        [*words, str(script), here, str(folder), str(steps)], env=environment, capture_output=True, check=False
    )


def assert_close(first, second) -> None:
    for line, other in zip(metrics(first), metrics(second), strict=True):
        assert line.keys() == other.keys()
        for name, value in line.items():
            assert value == pytest.approx(other[name], rel=1e-9), name
    (tensors, position), (others, other_position) = read_state(first / "state"), read_state(second / "state")
    assert tensors.keys() == others.keys() and position.keys() == other_position.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_two_processes_give_what_one_gives_and_survive_a_kill(tmp_path):
    fit(Double(), toy_data(), changed(**RECIPE), tmp_path / "one")
    killed = launch(tmp_path / "child.py", tmp_path / "two", 15)
    assert killed.returncode != 0
    _, position = read_state(tmp_path / "two" / "state")
    assert (position["epoch"], position["step"]) == (1, 1), killed.stderr.decode()
    shutil.copytree(tmp_path / "two", tmp_path / "alone")
    done = launch(tmp_path / "child.py", tmp_path / "two")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.decode().count("epoch 3/3: loss") == 1, "only the main process speaks"
    assert_close(tmp_path / "two", tmp_path / "one")
    fit(Double(), toy_data(), changed(**RECIPE), tmp_path / "alone", resume=True)
    assert_close(tmp_path / "alone", tmp_path / "one")
    assert json.loads((tmp_path / "two" / "run.json").read_text()) == json.loads(
        (tmp_path / "one" / "run.json").read_text()
    )


@pytest.fixture
def group(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_shared_batch_norm_of_one_process_is_batch_norm(dtype):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 4, 5, 5, generator=generator, dtype=torch.float64).to(dtype) * 3 + 7
    slopes = torch.randn(6, 4, 5, 5, generator=generator, dtype=torch.float64).to(dtype)
    found = []
    for shared in (False, True):
        norm = nn.BatchNorm2d(4).to(torch.float64 if dtype == torch.float64 else torch.float32)
        nn.init.uniform_(norm.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(1))
        leaf = images.clone().requires_grad_()
        if shared:
            with SharedBatchNorm():
                output = norm(leaf)
        else:
            output = norm(leaf)
        (output * slopes).sum().backward()
        found.append([output, leaf.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
    tolerance = {"rtol": 1e-9, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 0.02, "atol": 0.05}
    for plain, shared in zip(*found, strict=True):
        torch.testing.assert_close(shared, plain, **tolerance)
    norm.eval()
    with SharedBatchNorm():
        torch.testing.assert_close(
            norm(images),
            functional.batch_norm(images, norm.running_mean, norm.running_var, norm.weight, norm.bias),
        )
