"""Run what docs/hub.md shows, against the Hub of the tests on the loopback, and write down what came of it.

    python scripts/hub_document.py

The transcript is that of three shells, each command a process of its own; the tables are those of the faults that
``tests/hub_faults.py`` makes happen. Both replace what stands between their markers in docs/hub.md.
"""

import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from hub_clients import environment  # noqa: E402
from hub_faults import CASES, PUSH_CASES, Case, Outcome, PushCase, PushOutcome, measure, measure_push  # noqa: E402
from hub_server import Hub  # noqa: E402
from test_hub_load import a_model  # noqa: E402

DOCUMENT = ROOT / "docs" / "hub.md"
REPO = "me/resnet18-cifar10"
PYTHON = f'python -c \'import zoo_slim; print(zoo_slim.load("hf-hub:{REPO}@v1", pruned="0.75").conv1)\''

SHELLS = (
    (
        "The first shell: whoever made the network publishes it.",
        {"HF_TOKEN": "hf_me"},
        (f"zoo-slim push resnet18 {REPO} --pruned 0.75 --tag v1 --license apache-2.0",),
    ),
    (
        "The second: somebody else, on another machine, finds and loads it.",
        {},
        (
            "zoo-slim list --hub",
            f"zoo-slim info hf-hub:{REPO}",
            f"zoo-slim load hf-hub:{REPO}@v1 --pruned 0.75",
            PYTHON,
        ),
    ),
    (
        "The third: that machine again, now without a network (the server is stopped, too).",
        {"HF_HUB_OFFLINE": "1"},
        (PYTHON, f"zoo-slim load hf-hub:{REPO}@v1 --pruned 0.5"),
    ),
)


def main() -> None:
    """Write the transcript and the tables."""
    with tempfile.TemporaryDirectory() as temp:
        parts = {"transcript": transcript(Path(temp)), **tables(Path(temp))}
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, part in parts.items():
        begin, end = f"<!-- {name}: written by scripts/hub_document.py -->", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n\n{part}\n\n{end}{rest.partition(end)[2]}"
    DOCUMENT.write_text(text, encoding="utf-8")


def transcript(temp: Path) -> str:
    """Run the commands of the shells; return what a reader sees of them."""
    hub = Hub(temp / "hub")
    blocks = []
    try:
        for number, (title, settings, commands) in enumerate(SHELLS):
            if "HF_HUB_OFFLINE" in settings:
                hub.close()
            home = temp / ("maker" if number == 0 else "user")
            home.mkdir(exist_ok=True)
            env = {**environment(), "HF_ENDPOINT": hub.url, "HF_HOME": str(home), **settings}
            shown = {"HF_ENDPOINT": "http://127.0.0.1:PORT", **settings}
            lines = [f"$ export {name}={value}" for name, value in shown.items()]
            for command in commands:
                lines += [f"$ {command}", *run(command, env, home)]
            text = re.sub(r"http://127\.0\.0\.1:\d+", "http://127.0.0.1:PORT", "\n".join(lines))
            blocks.append(f"{title}\n\n```text\n{text}\n```")
    finally:
        hub.close()
    return "\n\n".join(blocks)


def run(command: str, env: dict[str, str], folder: Path) -> list[str]:
    """Run a shell's command with this interpreter; return the lines that it printed."""
    own = command.replace("zoo-slim", f"{sys.executable} -m zoo_slim.cli", 1) if command.startswith("zoo") else command
    own = re.sub("^python ", f"{sys.executable} ", own)
    done = subprocess.run(own, shell=True, env=env, cwd=folder, capture_output=True, text=True, check=False)
    return [line.rstrip().replace(str(folder), "~") for line in (done.stdout + done.stderr).splitlines()]


def tables(temp: Path) -> dict[str, str]:
    """Make all faults happen; return a table of those of a load and one of those of a push."""
    files = a_model(temp / "model", delta=False)
    folders = [temp / f"fault-{number}" for number in range(len(CASES) + len(PUSH_CASES))]
    with ThreadPoolExecutor(6) as pool:
        loads = pool.map(measure, CASES, [files] * len(CASES), folders)
        pushes = pool.map(measure_push, PUSH_CASES, [files] * len(PUSH_CASES), folders[len(CASES) :])
        rows = [_load_row(*pair) for pair in zip(CASES, loads, strict=True)]
        push_rows = [_push_row(*pair) for pair in zip(PUSH_CASES, pushes, strict=True)]
    head = "| fault | where | what the user saw | left in the cache | the next load |\n| --- | --- | --- | --- | --- |"
    push_head = "| fault | where | what the user saw | commits made | the push again |\n| --- | --- | --- | --- | --- |"
    return {"load faults": "\n".join([head, *rows]), "push faults": "\n".join([push_head, *push_rows])}


def _load_row(case: Case, outcome: Outcome) -> str:
    saw = [f"warning: {text}" for text in outcome.warnings]
    saw.append(outcome.error or ("the network, bit for bit" if outcome.same else "A WRONG NETWORK"))
    left = [f"{name} (damaged)" if name in outcome.damaged else name for name in outcome.left]
    left += ["a part of a file, under another name"] if outcome.incomplete else []
    after = "loads, bit for bit" if outcome.afterwards else "FAILS"
    return _row(case.name, case.where, "; ".join(saw), ", ".join(left) or "nothing of it", after)


def _push_row(case: PushCase, outcome: PushOutcome) -> str:
    after = "one commit in all, loads bit for bit" if outcome.afterwards else "FAILS"
    return _row(case.name, case.where, outcome.error or "success", str(outcome.commits), after)


def _row(*cells: str) -> str:
    return "| " + " | ".join(re.sub(r"\s+", " ", cell).replace("|", "\\|").strip() for cell in cells) + " |"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
