"""Train the networks of the CIFAR-10 table on one GPU, next to each other. For maintainers.

    python scripts/train_table.py RUNS [NET …] --data DIR [--epochs 60] [--seconds 540] [-- option …]

Each network is one `zoo-slim run`: sparse training, then slimming and fine-tuning at 0.5 and 0.75. They share the GPU,
which none of them fills alone. Each writes RUNS/NET/log.txt. The same command goes on where it was stopped, by
``--seconds`` or by hand. What follows ``--`` is given to every run. Afterwards:

    python scripts/table.py RUNS PAGE
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.live import Live
from rich.table import Table
from rich.text import Text

RUN = (sys.executable, "-m", "zoo_slim.cli", "run")

COMMON = shlex.split(
    "--dataset cifar10 --seed 0 --amp bf16 --batch-size 256 --lr 0.1 --nesterov --no-decay-norms "
    "--label-smoothing 0.1 --cutout 8 --sparsity-train --penalty proximal --weight-groups --sparsity-schedule linear "
    "--fine-tune --prune-ratio 0.5 --prune-ratio 0.75 --after-slimming both --distill --fine-tune-lr 0.02 "
    "--save-dtype float16 --checkpoint-seconds 90 --resume"
)

NETWORKS = {
    "resnet18": (0.3, "--stem cifar"),
    "resnet50": (0.3, "--stem cifar"),
    "vgg11_bn": (1.5, "--lr 0.02 --clip-norm 1 --group-ratio classifier.*=0.875"),
    "RepVGG-A0-woid": (1.2, ""),
}
"""By name, the sparsity times the epochs, and options that are a network's own.

How far the penalty moves a scale depends on their product and the learning rate, so with fewer epochs it must be
stronger. With two scales to a channel RepVGG needs more of it. The hidden layers of vgg11_bn have no BatchNorm: its
first steps at a higher learning rate end it, and without a ratio of their own they would stay whole.
"""

RAMP = 6
"""The penalty grows in a sixth of the epochs."""

WARMUP = 2

LOG = "log.txt"
LOOK_SECONDS = 1.0
STOP_SECONDS = 30.0
"""How long a run that is told to stop may take until it is killed; it loses nothing but the steps since its state."""


def main() -> None:
    """Read the command line, run, and exit with 1 where a run failed or was stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("nets", nargs="*", metavar="NET", help=f"default: all of {', '.join(NETWORKS)}")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds CIFAR-10")
    parser.add_argument("--epochs", type=int, default=60, help="of each training")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop then, to go on later")
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    given, more = parser.parse_intermixed_args(words[:split]), words[split + 1 :]
    if unknown := set(given.nets) - set(NETWORKS):
        parser.error(f"{', '.join(sorted(unknown))}: not in the table, which has {', '.join(NETWORKS)}")
    nets = given.nets or list(NETWORKS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the runs are stopped, too
    codes = run_all(
        {net: command_of(net, given.data, given.runs, given.epochs, more) for net in nets}, given.runs, given.seconds
    )
    print()
    for net, code in codes.items():
        print(f"{net}: {'done' if code == 0 else f'not done ({code}), see {given.runs / net / LOG}'}")
    sys.exit(any(codes.values()))


def command_of(net: str, data: Path, runs: Path, epochs: int, more: list[str]) -> list[str]:
    """The `zoo-slim run` of a network."""
    strength, own = NETWORKS[net]
    lengths = ["--epochs", epochs, "--fine-tune-epochs", epochs, "--warmup-epochs", min(WARMUP, epochs - 1)]
    penalty = ["--sparsity", f"{strength / epochs:g}", "--sparsity-epochs", max(epochs // RAMP, 1)]
    places = ["--data", data, "--output", runs / net]
    return [*RUN, net, *map(str, [*places, *COMMON, *own.split(), *lengths, *penalty]), *more]


def run_all(commands: dict[str, list[str]], runs: Path, seconds: float) -> dict[str, int]:
    """Run all commands at once until they end or the time is over; return their exit codes."""
    end = time.monotonic() + seconds
    threads = max((os.cpu_count() or 1) // len(commands), 1)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1"}
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for net, command in commands.items():
            folder = runs / net
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / LOG).open("ab") as log:
                log.write(f"$ {shlex.join(command)}\n".encode())
                log.flush()
                running[net] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        with Live(refresh_per_second=1) as live:
            while any(process.poll() is None for process in running.values()) and time.monotonic() < end:
                live.update(_look(runs, running))
                time.sleep(LOOK_SECONDS)
            live.update(_look(runs, running))
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    return {net: process.returncode for net, process in running.items()}


def _look(runs: Path, running: dict[str, "subprocess.Popen[bytes]"]) -> Table:
    """What each run said last."""
    table = Table("net", "state", "last line")
    for net, process in running.items():
        state = {None: "runs", 0: "done"}.get(process.poll(), f"ended with {process.returncode}")
        lines = (runs / net / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        table.add_row(net, state, Text(lines[-1] if lines else ""))
    return table


if __name__ == "__main__":
    main()
