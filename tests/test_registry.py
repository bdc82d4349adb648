"""The registry: names, options, plugins and their failures."""

import math
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import zoo_slim
from zoo_slim import Architecture, Family, Registry, ZooSlimError
from zoo_slim._errors import RegistryError, UnknownNameError
from zoo_slim._plugins import Package

PLUGIN = Path(__file__).parent / "plugin"


def small(num_classes: int = 10, slope: float = 0.1, bias: bool = True, act: Literal["relu", "leaky"] = "relu"):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes, bias=bias), nn.LeakyReLU(slope))


def install(folder: Path, name: str, code: str, entry_points: dict[str, str]) -> list[metadata.EntryPoint]:
    """Put a distribution of one module into ``folder``, as an installer would leave it."""
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir(parents=True)
    (folder / f"{name}.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    lines = [f"{point} = {name}:{target}" for point, target in entry_points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[zoo_slim.architectures]", *lines, ""]))
    return [point for dist in metadata.distributions(path=[str(folder)]) for point in dist.entry_points]


def python(code: str, *paths: Path) -> str:
    """Run code in a fresh process that finds plugins in ``paths`` too; return what it prints."""
    search = os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    env = {**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Architecture


def test_options_come_from_the_signature():
    def build(a: int, b: float = 1.0, c: bool = False, d: Literal["x", "y"] = "x", e=3, f: "int | None" = None):
        return nn.Identity()

    assert dict(Architecture("net", build).options) == {
        "a": int,
        "b": float,
        "c": bool,
        "d": ("x", "y"),
        "e": int,
        "f": int,
    }


def test_what_is_not_data_is_no_option():
    def build(path: str = "", layers=(1, 2), depth: Literal[1, 2] = 1, pretrained: bool = False, *args: int, **kw: int):
        return nn.Identity()

    assert dict(Architecture("net", build).options) == {}


def test_options_of_a_builder_with_postponed_annotations():
    namespace: dict = {}
    code = (
        "from __future__ import annotations\nfrom typing import Literal\n"
        "def known(n: int, stem: Literal['a', 'b']): ...\ndef unknown(n: int, x: Missing): ..."
    )
    exec(code, namespace)
    assert dict(Architecture("net", namespace["known"]).options) == {"n": int, "stem": ("a", "b")}
    assert dict(Architecture("net", namespace["unknown"]).options) == {"n": int}


@pytest.mark.parametrize("name", ["", "a b", "../a", "a/../b", "/a", "a/", "a//b", "hf-hub:a", "-a", ".a", "a\n", 3])
def test_names_are_safe_as_paths(name):
    with pytest.raises(RegistryError, match="cannot name an architecture"):
        Architecture(name, small)


@pytest.mark.parametrize("size", [(3, 32), (3, 0, 32), (3, 32.0, 32), (3, True, 32), 32, "abc", None])
def test_input_size_is_three_positive_integers(size):
    with pytest.raises(RegistryError, match="input size of architecture 'net'"):
        Architecture("net", small, input_size=size)


@pytest.mark.parametrize("fields", [{"options": 3}, {"size": (3, 8, 8)}])
def test_fields_of_another_kind_are_refused(fields):
    with pytest.raises(RegistryError, match=r"'net' cannot be registered with .*; the fields are input_size="):
        Registry(entry_points=[]).register("net", small, **fields)


def test_declared_options_are_checked():
    with pytest.raises(RegistryError, match=r"option 'a' .* tuple of strings was expected"):
        Architecture("net", small, options={"a": list})  # type: ignore[dict-item]
    with pytest.raises(RegistryError, match="is 3, not a function"):
        Architecture("net", 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("num_classes", True, "an integer"),
        ("num_classes", 10.0, "an integer"),
        ("num_classes", "10", "an integer"),
        ("num_classes", 0, "1..1000000"),
        ("num_classes", -1, "1..1000000"),
        ("num_classes", 10**7, "1..1000000"),
        ("slope", math.nan, "a number"),
        ("slope", math.inf, "a number"),
        ("slope", -1e9, "a number"),
        pytest.param("slope", 10**400, "a number", id="beyond float"),
        ("slope", False, "a number"),
        ("slope", None, "a number"),
        ("bias", 1, "true or false"),
        ("act", "gelu", "'relu', 'leaky'"),
        ("act", ["relu"], "'relu', 'leaky'"),
    ],
)
def test_a_wrong_value_is_named(option, value, expected):
    with pytest.raises(RegistryError) as caught:
        Architecture("net", small).check({option: value})
    message = str(caught.value)
    assert "'net'" in message and repr(option) in message and expected in message


def test_an_unknown_option_is_named():
    with pytest.raises(RegistryError, match=r"no option 'checkpoint_path'; its options are: num_classes, slope"):
        Architecture("net", small).check({"checkpoint_path": "/etc"})


@given(st.fixed_dictionaries({}, optional={"num_classes": st.integers(1, 10**6), "slope": st.floats(-1e6, 1e6)}))
def test_valid_options_pass_unchanged(options):
    checked = Architecture("net", small).check(options)
    assert checked == options and checked is not options


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())))
def test_any_json_value_is_taken_or_refused_by_name(value):
    for option in ("num_classes", "slope", "bias", "act"):
        try:
            checked = Architecture("net", small).check({option: value})[option]
        except RegistryError as error:
            assert repr(option) in str(error)
        else:
            assert type(checked) is {"num_classes": int, "slope": float, "bias": bool, "act": str}[option]


def test_an_integer_serves_as_a_float():
    value = Architecture("net", small).check({"slope": 1})["slope"]
    assert type(value) is float and value == 1.0


def test_build_passes_the_options_on():
    model = Architecture("net", small).build(num_classes=7, bias=False)
    assert model[1].weight.shape == (7, 12) and model[1].bias is None


def test_what_the_builder_refuses_is_a_registry_error():
    def picky(num_classes: int = 10) -> nn.Module:
        raise AssertionError("odd")

    with pytest.raises(RegistryError, match="'net' cannot be built with num_classes=3: odd"):
        Architecture("net", picky).build(num_classes=3)
    with pytest.raises(AssertionError):
        Architecture("net", picky).build()
    with pytest.raises(RegistryError, match="returned str; a module was expected"):
        Architecture("net", lambda: "no module").build()  # type: ignore[arg-type,return-value]


def test_example_input():
    architecture = Architecture("net", small, input_size=(1, 28, 20))
    images = architecture.example_input()
    assert images.shape == (2, 1, 28, 20) and images.dtype == torch.float32
    assert 0 <= images.min() < images.max() < 1
    assert torch.equal(images, architecture.example_input())
    assert architecture.example_input(3, size=8).shape == (3, 1, 8, 8)
    assert architecture.example_input(size=(8, 6)).shape == (2, 1, 8, 6)
    assert architecture.example_input(size=(3, 8, 6), dtype=torch.float64).dtype == torch.float64
    assert architecture.example_input(device="meta").is_meta
    with torch.device("meta"):
        assert torch.equal(architecture.example_input(), images)


@pytest.mark.parametrize("size", [0, -1, (8,), (1, 2, 3, 4), (8, 0), "88"])
def test_example_input_of_another_form(size):
    with pytest.raises(RegistryError, match="example input"):
        Architecture("net", small).example_input(size=size)


# Registration in the program


def test_register_as_decorator_and_as_call():
    registry = Registry(entry_points=[])

    @registry.register("one", input_size=(3, 32, 32))
    def one(num_classes: int = 10) -> nn.Module:
        return small(num_classes)

    registry.register("org/two.v1", small)
    assert registry.find("one").input_size == (3, 32, 32)
    assert registry.find("one").builder is one
    assert registry.names() == ["one", "org/two.v1"]
    assert registry.names("org/*") == ["org/two.v1"]


def test_another_builder_cannot_take_a_name():
    registry = Registry(entry_points=[])
    registry.register("net", small)
    registry.register("net", small, input_size=(3, 8, 8))
    assert registry.find("net").input_size == (3, 8, 8)
    with pytest.raises(RegistryError, match=r"already registered by .*small; choose another name for .*Identity"):
        registry.register("net", nn.Identity)
    for lambdas in (lambda: nn.Identity(), lambda: nn.ReLU()):
        if registry.names("anonymous"):
            with pytest.raises(RegistryError, match="already registered"):
                registry.register("anonymous", lambdas)
        else:
            registry.register("anonymous", lambdas)


def test_a_reloaded_function_replaces_itself():
    registry = Registry(entry_points=[])
    namespaces = [{"__name__": "cell"}, {"__name__": "cell"}]
    for namespace in namespaces:
        exec("def net(num_classes: int = 10): ...", namespace)
        registry.register("net", namespace["net"])
    assert registry.find("net").builder is namespaces[1]["net"]


def test_unknown_names_get_close_matches():
    registry = Registry(entry_points=[])
    registry.register("TinyNet", small)
    with pytest.raises(ZooSlimError, match=r"no architecture is called 'tinynt'; did you mean 'TinyNet'\?"):
        registry.find("tinynt")
    with pytest.raises(RegistryError, match="list_models"):
        registry.find("../../etc/passwd")
    registry.register("lab/tinynet", small)
    with pytest.raises(UnknownNameError, match=r"did you mean 'lab/tinynet'\?"):
        registry.find("lab/tinynt")
    with pytest.raises(UnknownNameError) as caught:
        registry.find("lap/tinynt")
    assert caught.value.close == (), "of another family's names none is meant"


# Plugins


class Numbered:
    prefix = "num/"

    def __init__(self) -> None:
        self.listed = self.asked = 0

    def names(self):
        self.listed += 1
        return ["num/one", "num/two"]

    def find(self, name):
        self.asked += 1
        return Architecture(name, small) if name in ("num/one", "num/two") else None


numbered = Numbered()
numbers = 3


def point(name: str, value: str) -> metadata.EntryPoint:
    return metadata.EntryPoint(name, f"{__name__}:{value}", "zoo_slim.architectures")


def test_an_entry_point_is_an_architecture_a_family_or_a_builder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    imports = "from torch import nn\nfrom zoo_slim import Architecture\n"
    code = imports + "class Net(nn.Module): pass\nnet = Architecture('a', Net)"
    points = install(tmp_path, "forms", code, {"x": "net", "b": "Net"})
    registry = Registry([*points, point("c", "small"), point("d", "numbered")])
    assert isinstance(numbered, Family)
    assert registry.names() == ["a", "b", "c", "num/one", "num/two"]
    assert registry.find("c").builder is small
    assert type(registry.find("b").build()).__name__ == "Net"
    assert registry.find("num/two").name == "num/two"
    assert registry.failures == {}


def test_a_family_with_a_prefix_is_left_alone_by_other_names(monkeypatch):
    family = Numbered()
    monkeypatch.setattr(sys.modules[__name__], "numbered", family)
    registry = Registry([point("c", "small"), point("numbered", "numbered")])
    assert registry.names("c*") == ["c"]
    registry.find("c")
    assert (family.listed, family.asked) == (0, 0)
    assert registry.names("n*") == registry.names("num/*") == registry.names("*/*") == ["num/one", "num/two"]
    with pytest.raises(RegistryError, match=r"did you mean 'num/two'\?"):
        registry.find("two")
    assert family.listed == 3
    with pytest.raises(RegistryError, match=r"did you mean 'num/two' or"):
        registry.find("num/tow")


def test_a_broken_plugin_is_reported_and_harms_no_other(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    broken = install(tmp_path, "broken_plugin", "raise OSError('no such library')", {"broken": "family"})
    registry = Registry([*broken, point("number", "numbers"), point("net", "small")])
    label = "broken = broken_plugin:family (broken_plugin 1.2)"
    assert registry.find("net").builder is small
    assert registry.failures[label] == "OSError: no such library"
    assert (
        "an Architecture, a Family or a builder function was expected"
        in registry.failures[f"number = {__name__}:numbers"]
    )
    with pytest.warns(UserWarning) as warned:
        assert registry.names() == ["net"]
    assert any(label in str(warning.message) and "no such library" in str(warning.message) for warning in warned)
    with pytest.raises(RegistryError) as caught:
        registry.find("brokennet")
    assert label in str(caught.value) and "no such library" in str(caught.value)


def test_a_family_that_raises_is_a_failure(monkeypatch):
    class Raising:
        def names(self):
            raise RuntimeError("cannot list")

        def find(self, name):
            raise RuntimeError("cannot find")

    monkeypatch.setattr(sys.modules[__name__], "numbered", Raising())
    registry = Registry([point("raising", "numbered"), point("net", "small")])
    assert registry.find("net").builder is small
    assert "cannot find" in registry.failures[f"raising = {__name__}:numbered"]
    with pytest.warns(UserWarning, match="cannot list"):
        assert registry.names() == ["net"]


def test_two_plugins_that_claim_a_name_are_both_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code = "from torch import nn\ndef build(): return nn.Identity()"
    install(tmp_path, "first_plugin", code, {"net": "build", "other": "build"})
    registry = Registry(install(tmp_path, "second_plugin", code, {"net": "build"}))
    with pytest.raises(RegistryError) as caught:
        registry.find("net")
    assert "net = first_plugin:build (first_plugin 1.2)" in str(caught.value)
    assert "net = second_plugin:build (second_plugin 1.2)" in str(caught.value)
    with pytest.raises(RegistryError, match="claimed by 2 plugins"):
        registry.package("net")
    assert registry.find("other").name == "other"
    registry.register("other", small)
    with pytest.raises(RegistryError, match=r"claimed by 2 plugins: .*test_registry\.small"):
        registry.find("other")


def test_the_package_that_offers_a_name(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code = "from torch import nn\ndef build(): return nn.Identity()"
    points = install(tmp_path, "some_plugin", code, {"theirs": "build"})
    registry = Registry([*points, point("homeless", "small")])
    registry.register("mine", small)
    assert registry.package("theirs") == Package("some_plugin", "1.2")
    assert str(registry.package("theirs")) == "some_plugin 1.2"
    assert registry.package("mine") is None and registry.package("homeless") is None
    package = zoo_slim.registry.registry().package("timm/resnet18")
    assert package is not None and package.name == "zoo_slim"
    monkeypatch.setattr(metadata.Distribution, "version", "1.2 of\nyesterday")
    assert Registry(points).package("theirs") is None


# The installed package


def test_an_installed_package_is_found(tmp_path):
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True, capture_output=True)
    install(site, "broken_plugin", "import no_such_module", {"broken": "family"})
    code = """
import warnings
import zoo_slim
from zoo_slim.registry import registry
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(zoo_slim.list_models("tiny*"))
print([str(warning.message) for warning in caught])
net = registry().find("tinynet")
print(net.input_size, net.build(num_classes=5, pool="max")(net.example_input()).shape, dict(net.options))
print(registry().find("resnet18").name)
from zoo_slim.slimming import list_criteria
import torch
with torch.no_grad():
    model = net.build(width=4)
    model[0].weight.fill_(0.1)
    model[0].weight[1] = 0.0
    model[0].weight[1, 0, 0, 0] = -9.0  # the largest peak, and the smallest mean
    model[0].weight[2] = 0.2
result = zoo_slim.slim(model, ratio=0.5, criterion="peak", example_input=net.example_input())[1]
print("peak" in list_criteria(), set(result.kept["0.weight"][0].tolist()) >= {1})
zoo_slim.save(zoo_slim.load("tinynet", pretrained=False), "SAVED")
""".replace("SAVED", str(tmp_path / "saved"))
    lines = python(code, site).splitlines()
    assert lines[0] == "['tinynet']"
    assert "broken = broken_plugin:family (broken_plugin 1.2)" in lines[1] and "no_such_module" in lines[1]
    assert lines[2].startswith("(1, 28, 28) torch.Size([2, 5])") and "('avg', 'max')" in lines[2]
    assert lines[3] == "resnet18" and lines[4] == "True True"
    assert "tinynet" not in zoo_slim.list_models("tiny*")
    said = r"config\.json: needs architecture 'tinynet', which no installed package offers\n.*the package "
    missing = r"zoo_slim_tinynet 0\.3\.0 offered it; it is not installed here: install it, if you trust it"
    with pytest.raises(RegistryError, match=said + missing):
        zoo_slim.load(tmp_path / "saved")
    edited = (tmp_path / "saved" / "config.json").read_text().replace("zoo_slim_tinynet", "pytest")
    (tmp_path / "saved" / "config.json").write_text(edited)
    other = rf"pytest 0\.3\.0 offered it; {re.escape(pytest.__version__)} is installed here"
    with pytest.raises(RegistryError, match=said + other):
        zoo_slim.load(tmp_path / "saved")


def test_finding_a_name_imports_nothing_heavy():
    code = """
import sys
import zoo_slim
from zoo_slim.registry import registry
heavy = {"torchvision", "timm", "huggingface_hub", "matplotlib", "onnx"}
@zoo_slim.register("my_net")
def my_net(num_classes: int = 10): ...
for name in ("resnet50", "vgg16_bn", "RepVGG-A0", "mobilenet_v2", "my_net"):
    registry().find(name)
print(sorted(heavy & set(sys.modules)))
print(zoo_slim.list_models("vgg11*"), "timm" in sys.modules)
"""
    assert python(code).splitlines() == ["[]", "['vgg11', 'vgg11_bn'] False"]


def test_the_side_folders_are_no_packages_of_their_own(tmp_path):
    code = """
import importlib.util as u
import zoo_slim.architectures, zoo_slim.schemas
print(u.find_spec("architectures"), u.find_spec("schemas"))
"""
    env_free = f"import os; os.chdir({str(tmp_path)!r})\n" + code
    assert python(env_free).split() == ["None", "None"]


def test_the_public_names_resolve():
    assert set(zoo_slim.__all__) <= set(dir(zoo_slim))
    assert zoo_slim.Registry is Registry
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        zoo_slim.lod  # noqa: B018


def test_public_modules_are_loaded_on_first_use():
    code = """
import zoo_slim
print(zoo_slim.sparsity.make_penalty.__name__, zoo_slim.slimming.find_blocks.__name__, "training" in dir(zoo_slim))
"""
    assert python(code).split() == ["make_penalty", "find_blocks", "True"]
