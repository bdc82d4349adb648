"""What starting costs, help, and the bundling of trained networks."""

import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from zoo_slim.cli import app

COMMANDS = ("list", "info", "load", "predict", "convert", "slim", "schema", "verify", "export")
HEAVY = {"torchvision", "timm", "huggingface_hub", "matplotlib", "onnx", "onnxruntime", "accelerate"}


def loaded(code: str) -> set[str]:
    """The top-level modules that a fresh process has loaded after ``code``."""
    ending = "\nimport sys; print('\\nMODULES', *sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES")[2].split())


def test_import_is_light():
    modules = loaded("import zoo_slim")
    assert "zoo_slim" in modules and not modules & HEAVY


def test_public_names_are_light():
    modules = loaded("import zoo_slim; zoo_slim.slim, zoo_slim.load, zoo_slim.save, zoo_slim.trace, zoo_slim.register")
    assert "torch" in modules and not modules & HEAVY


@pytest.mark.parametrize("words", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_needs_no_torch(words):
    code = f"from zoo_slim.cli import app\ntry:\n    app({words})\nexcept SystemExit as exit:\n    assert not exit.code"
    assert not loaded(code) & (HEAVY | {"torch", "numpy", "PIL"})


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_an_example(command):
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert " ".join(result.output.split()).rpartition("Example: ")[2].startswith(f"zoo-slim {command} ")


def test_every_command_has_a_short_help_that_fits():
    for command in typer.main.get_command(app).commands.values():
        assert command.help, command.name
    lines = CliRunner().invoke(app, ["--help"]).output.splitlines()
    for command in COMMANDS:
        line = next(line for line in lines if line.strip().startswith(f"{command} "))
        assert line.endswith(".") and not line.endswith("..."), line


def test_version_and_unknown_command():
    import zoo_slim

    assert CliRunner().invoke(app, ["--version"]).output == f"zoo-slim {zoo_slim.__version__}\n"
    result = CliRunner().invoke(app, ["lisst"])
    assert result.exit_code == 2 and "lisst" in result.output


COMMAND = [sys.executable, "-m", "zoo_slim.cli", "list", "resnet*"]


def in_folder(folder, *words, **environment):
    """Run ``zoo-slim WORDS`` there, as the installed script: without that folder in the path."""
    code = [sys.executable, "-I", "-c", "from zoo_slim.cli import main; main()"]
    return subprocess.run(
        [*code, *words], capture_output=True, text=True, cwd=folder, env={**os.environ, **environment}
    )


def test_a_module_of_ones_own_is_imported(tmp_path):
    (tmp_path / "my_nets.py").write_text(
        "import torch, zoo_slim\n\n\n@zoo_slim.register('my_only_net', input_size=(3, 8, 8))\n"
        "def my_only_net(width: int = 8):\n    return torch.nn.Conv2d(3, width, 1)\n"
    )
    without = in_folder(tmp_path, "list", "my_only*")
    assert "Traceback" not in without.stderr and "my_only_net" not in without.stdout
    for words, environment in ((["--import", "my_nets"], {}), ([], {"ZOO_SLIM_IMPORT": "my_nets"})):
        done = in_folder(tmp_path, *words, "list", "my_only*", **environment)
        assert (done.returncode, done.stderr) == (0, "") and "my_only_net" in done.stdout
    done = in_folder(tmp_path, "--import", "my_nets", "coverage", "my_only_net")  # which measures in another process
    assert "no architecture" not in done.stdout and '"stage": "end"' in (tmp_path / "coverage.jsonl").read_text()


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "--import nets.mine: there is no such module, here or installed"),
        ("import not_there_at_all", "--import nets.mine: it needs the module 'not_there_at_all', which is missing"),
        ("def (:", "--import nets.mine: SyntaxError: "),
        ("1 / 0", "--import nets.mine: ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_cannot_be_imported(tmp_path, text, said):
    (tmp_path / "nets").mkdir()
    if text is not None:
        (tmp_path / "nets" / "mine.py").write_text(text)
    done = in_folder(tmp_path, "--import", "nets.mine", "list")
    assert done.returncode == 1 and f"zoo-slim: {said}" in done.stderr and "Traceback" not in done.stderr


def test_any_encoding_will_do():
    code = "from zoo_slim.cli import main; import sys, typer; sys.argv[1:] = ['--version']"
    code += "; typer.echo = lambda text: print(chr(215), text); main()"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("? zoo-slim")


@pytest.mark.skipif(os.name == "nt", reason="closes descriptors as POSIX shells do")
@pytest.mark.parametrize("closed", [1, 2])
def test_closed_streams_end_in_no_stack_trace(closed):
    shell = ["sh", "-c", f'"$@" {closed}>&-', "sh", *COMMAND]
    done = subprocess.run(shell, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and ("resnet18" in done.stdout) == (closed == 2)


def test_bundle(tmp_path):
    import torch
    from cli_helpers import NAME, build_tiny, load_script, register_tiny
    from test_training_data import write_fashion

    from zoo_slim import checkpoint, slim
    from zoo_slim.training import evaluate, load_dataset

    bundle = load_script("bundle")
    write_fashion(tmp_path / "data", train=16, test=20)
    data = load_dataset("fashion-mnist", tmp_path / "data")
    register_tiny()
    torch.manual_seed(0)
    command = "zoo-slim train tiny --data data --output x"
    inputs = {"size": [3, 32, 32], "mean": data.mean, "std": data.std}
    checkpoint.save(
        build_tiny(num_classes=10), tmp_path / "base", architecture=NAME, options={"num_classes": 10},
        classes=data.classes, input=inputs, training={"command": command, "seed": 3},
    )  # fmt: skip
    model, _ = slim(checkpoint.load_folder(tmp_path / "base"), ratio=0.5, criterion="l1")
    checkpoint.save(model, tmp_path / "slim", variant="0.5", metrics={"test_accuracy_before_finetuning": 0.25})

    folder = bundle.bundle(tmp_path / "slim", data, tmp_path / "zoo", base=tmp_path / "base")

    assert folder == tmp_path / "zoo" / NAME / "pruned-0.5"
    config = checkpoint.read_config(folder)
    assert (config.stored_dtype, config.variant, config.classes) == ("float16", "0.5", data.classes)
    bundled = checkpoint.load_folder(folder)
    assert config.metrics["test_accuracy"] == evaluate(bundled, data)["accuracy"]
    assert config.metrics["test_accuracy_before_finetuning"] == 0.25
    whole = checkpoint.load_folder(tmp_path / "base")
    assert config.base["test_accuracy"] == evaluate(whole, data)["accuracy"]
    assert config.base["file_bytes"] == (tmp_path / "base" / "model.safetensors").stat().st_size
    assert config.training["dataset"] == "fashion-mnist" and config.training["base"]["seed"] == 3
    assert config.training["base"]["command"] == command
    assert config.training["evaluation"]["count"] == 20 and config.training["evaluation"]["stored"] == "float16"
    again = checkpoint.read_config(bundle.bundle(folder, data, tmp_path / "again"))
    assert (again.base, again.training, again.metrics) == (config.base, config.training, config.metrics)
    readme = (tmp_path / "zoo" / NAME / "README.md").read_text()
    assert "pruned-0.5" in readme and f"{config.metrics['params']:,}" in readme


@pytest.mark.parametrize("name", ["OutOfMemoryError", "RuntimeError"])
def test_a_full_gpu_is_said_in_a_line_and_no_other_error(name, monkeypatch, capsys):
    from zoo_slim import cli

    def run():
        raise type(name, (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(cli, "app", run)
    with pytest.raises(SystemExit if name == "OutOfMemoryError" else RuntimeError):
        cli.main()
    said = capsys.readouterr().err
    assert (said.count("\n"), "--batch-size" in said) == ((1, True) if name == "OutOfMemoryError" else (0, False))
