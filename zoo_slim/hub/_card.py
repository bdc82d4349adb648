"""Model cards: metadata that the Hub understands, a table of the variants, and what people wrote themselves."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_slim._amount import amount
from zoo_slim._errors import HubError
from zoo_slim.checkpoint import MODEL, BaseWeights, Config
from zoo_slim.checkpoint._origin import part_tested, trained_on
from zoo_slim.hub._list import LIBRARY
from zoo_slim.hub._place import prefix_of

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

__all__ = ["PICTURE", "Facts", "write_card"]

PICTURE = "channels.png"
"""The picture of the channels kept, in a variant's folder."""

BEGIN = "<!-- zoo_slim: begin. Written anew at every push; what is yours belongs above or below. -->"
END = "<!-- zoo_slim: end -->"

DATASETS = {
    "cifar10": "uoft-cs/cifar10",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "mnist": "ylecun/mnist",
}
"""Where the Hub has the data sets that zoo_slim trains on."""

EARLIER = "_before_finetuning"
"""Ends the names of what was measured of weights that are not in the file."""

_OWN = re.compile(r"test (?:\w+ )?\((?:base|pruned [\w.+-]+)\)", re.ASCII)
_COUNTS = ("params", "macs", "file_bytes")


@dataclass(frozen=True)
class Facts:
    """What a card says that no ``config.json`` does.

    Attributes:
        repo: ``org/name``.
        license: the Hub's name of a licence, ``apache-2.0`` for instance.
        datasets: the Hub's names of the data sets; None: those that the configs name, as far as they are known.
        base_model: the repository of the network that was slimmed.
        pipeline_tag: the task, ``image-classification`` for instance.
        pictures: the variants of which the repository has a picture.
    """

    repo: str
    license: str | None = None
    datasets: tuple[str, ...] | None = None
    base_model: str | None = None
    pipeline_tag: str | None = None
    pictures: frozenset[str] = frozenset()


def write_card(old: str | None, configs: Mapping[str | None, Config], facts: Facts) -> str:
    """Return the text of a ``README.md``.

    Args:
        old: the one that is there. Its text and its metadata stay; only what was generated earlier is replaced, and
            metadata that ``facts`` gives anew.
        configs: the checkpoints of the repository; None is the base network.
        facts: see there.

    Raises:
        HubError: the metadata of the old one cannot be read.
    """
    from huggingface_hub import ModelCard, RepoCard
    from huggingface_hub.repocard_data import CardData

    generated = f"{BEGIN}\n\n{_body(configs, facts)}\n\n{END}"
    if old is None:
        data = _metadata({}, configs, facts)
        text = f"# {facts.repo.split('/')[1]}\n\n{generated}\n"
        return str(ModelCard(f"---\n{CardData(**data).to_yaml()}\n---\n\n{text}"))
    try:
        known = RepoCard(_with_metadata(old))
        before = known.data.to_dict()
        after = _metadata(before, configs, facts)
    except HubError:
        raise
    except Exception as error:  # of whatever kind: the YAML, and what it holds, is somebody else's
        raise HubError(
            f"{facts.repo}: README.md: its metadata cannot be read ({type(error).__name__}: {error}); mend it, or push"
            " with card=False (--no-card)"
        ) from error
    start, end = old.find(BEGIN), old.find(END)
    text = known.text
    if 0 <= start < end:
        old_part = old[start : end + len(END)]
        text = text.replace(old_part, generated, 1)
    else:
        text = f"{text.rstrip()}\n\n{generated}\n" if text.strip() else f"\n{generated}\n"
    if after == before:
        return old[: len(old) - len(known.text)] + text
    known.text, known.data = text, CardData(**after)
    return str(known)


def _with_metadata(card: str) -> str:
    """Give a card that has no metadata an empty block, as the client warns of those that have none."""
    return card if re.match(r"\s*---\r?\n", card) else f"---\n{{}}\n---\n{card}"


def _metadata(before: dict[str, Any], configs: Mapping[str | None, Config], facts: Facts) -> dict[str, Any]:
    """Return the metadata: what is there, with ours added."""
    from huggingface_hub import ModelCardData

    data = dict(before)
    trained_on = _known_datasets(configs) if facts.datasets is None else facts.datasets
    ours = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag=facts.pipeline_tag,
        license=facts.license,
        base_model=facts.base_model,
        base_model_relation="finetune" if facts.base_model else None,
        tags=[LIBRARY, "network-slimming", "pruning", *sorted({config.architecture for config in configs.values()})],
        datasets=list(trained_on) or None,
    ).to_dict()
    for key, value in ours.items():
        if isinstance(value, list):
            there = data.get(key) or []
            there = there if isinstance(there, list) else [there]
            data[key] = [*there, *(item for item in value if item not in there)]
        elif key not in data or key in ("license", "base_model", "base_model_relation"):
            data[key] = value
    index = data.get("model-index") or []
    if len(index) <= 1:
        results = _results(index, configs, facts)
        data.pop("model-index", None)
        if results:
            name = index[0]["name"] if index else facts.repo.split("/")[1]
            data["model-index"] = ModelCardData(model_name=name, eval_results=results).to_dict()["model-index"]
    return data


def _known_datasets(configs: Mapping[str | None, Config]) -> list[str]:
    named = [_dataset(config) for config in configs.values()]
    return sorted({DATASETS[name] for name in named if name in DATASETS})


def _dataset(config: Config) -> str | None:
    """The data set that a network was trained on, as its config names it."""
    return _plain(trained_on(config.training) or "") or None


def _results(index: list[Any], configs: Mapping[str | None, Config], facts: Facts) -> "list[EvalResult]":
    """Return the results that other people entered, and ours."""
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import model_index_to_eval_results

    others = model_index_to_eval_results(index)[1] if index else []
    results = [result for result in others if not _OWN.fullmatch(result.metric_name or "")]
    for tag, config in configs.items():
        dataset = _dataset(config)
        if dataset is None or part_tested(config.training) is not None:
            continue  # a metric of the split "test" is one of all its images
        for name, value in _measured(config).items():
            if name.endswith(EARLIER):
                continue
            results.append(
                EvalResult(
                    task_type=facts.pipeline_tag or "image-classification",
                    dataset_type=DATASETS.get(dataset, dataset),
                    dataset_name=dataset,
                    dataset_split="test",
                    metric_type=name.removeprefix("test_"),
                    metric_value=value,
                    metric_name=f"test {name.removeprefix('test_')} ({'base' if tag is None else f'pruned {tag}'})",
                )
            )
    return results


def _measured(config: Config) -> dict[str, float]:
    """What was measured of a network, counts left out."""
    numbers = {name: value for name, value in config.metrics.items() if name not in _COUNTS}
    return {
        name: value
        for name, value in numbers.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and re.fullmatch(r"[a-z]\w{0,39}", name)
    }


def _body(configs: Mapping[str | None, Config], facts: Facts) -> str:
    """Return the part of the card that is generated."""
    ordered = sorted(configs, key=lambda tag: (tag is not None, tag or ""))
    tags = [tag for tag in ordered if tag is not None]
    measured = list(dict.fromkeys(name for tag in ordered for name in _measured(configs[tag])))[:4]
    columns = ["network", "parameters", "MACs", "weights", *(name.replace("_", " ") for name in measured)]
    rows = ["| " + " | ".join(columns) + " |", "| --- |" + " ---: |" * (len(columns) - 1)]
    rows += ["| " + " | ".join(_row(tag, configs[tag], measured)) + " |" for tag in ordered]
    shown = tags[-1] if tags else None
    example = f'zoo_slim.load("hf-hub:{facts.repo}"' + (f', pruned="{shown}")' if shown else ")")
    names = ", ".join(f"`{name}`" for name in sorted({config.architecture for config in configs.values()}))
    parts = [
        f"Slim networks of the architecture {names}, made and loaded with zoo_slim{_packages(configs)}:",
        f"```python\nimport zoo_slim\n\nmodel = {example}\n```",
        "\n".join(rows),
        *_notes(ordered, configs),
        *(f"![Channels that variant {tag} kept]({prefix_of(tag)}{PICTURE})" for tag in tags if tag in facts.pictures),
    ]
    return "\n\n".join(parts)


def _packages(configs: Mapping[str | None, Config]) -> str:
    """Name the packages that are needed besides zoo_slim, as they offer the architectures."""
    named = {config.package.name for config in configs.values() if config.package}
    needed = sorted(name for name in named if name.replace("-", "_") != LIBRARY)
    return f", with the package {', '.join(f'`{name}`' for name in needed)} installed" if needed else ""


def _row(tag: str | None, config: Config, measured: Iterable[str]) -> list[str]:
    weights = config.files.get(MODEL)
    base = config.base_weights
    elsewhere = f"cut from {base.repo}" if isinstance(base, BaseWeights) else "cut from the base's"
    return [
        "base" if tag is None else f"[pruned {tag}]({prefix_of(tag)[:-1]})",
        amount(config.metrics.get("params")),
        amount(config.metrics.get("macs")),
        amount(weights.bytes, "B") if weights else elsewhere,
        *(_value(name, _measured(config).get(name)) for name in measured),
    ]


def _notes(tags: Iterable[str | None], configs: Mapping[str | None, Config]) -> list[str]:
    """Say which images were measured on: all of a test set, or a part of it."""
    whole: set[str] = set()
    parts: dict[str, list[str]] = {}
    for tag in tags:
        dataset, part = _dataset(configs[tag]), part_tested(configs[tag].training)
        if part is not None:
            images = f"{part[0]:,} of {part[1]:,} test images" + (f" of {dataset}" if dataset else "")
            parts.setdefault(images, []).append("base" if tag is None else f"pruned {tag}")
        elif dataset is not None:
            whole.add(dataset)
    notes = [f"Measured on the test images of {', '.join(sorted(whole))}."] if whole else []
    return notes + [f"Measured on {images} only: {', '.join(names)}." for images, names in parts.items()]


def _value(name: str, value: float | None) -> str:
    if value is None:
        return "—"
    return f"{100 * value:.2f} %" if "accuracy" in name and 0 <= value <= 1 else f"{value:.6g}"


def _plain(text: str) -> str:
    """Return somebody's text without what Markdown and HTML would make something of."""
    return re.sub(r"[^\w .,+/-]", "", text)[:80]
