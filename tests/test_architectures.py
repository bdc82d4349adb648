"""The first-party architectures."""

import socket
import warnings

import pytest
import torch
from torch import nn

import zoo_slim
from zoo_slim import PruningResult, apply_result
from zoo_slim._errors import RegistryError
from zoo_slim.architectures import mobilenet, repvgg, resnet, vgg
from zoo_slim.architectures import torchvision as others
from zoo_slim.registry import registry

TABLES = (mobilenet.NAMES, repvgg.NAMES, resnet.NAMES, vgg.NAMES)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("building reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def build(name: str, **options) -> nn.Module:
    return registry().find(name).build(**options)


def on_meta(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return build(name, **options)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def outputs_of(model: nn.Module, name: str, size: int) -> torch.Tensor:
    """The logits on the meta device, where no arithmetic is done."""
    out = model.eval()(registry().find(name).example_input(size=size, device="meta"))
    return out["out"] if isinstance(out, dict) else out


def randomise(model: nn.Module) -> nn.Module:
    """Give BatchNorms scales and statistics that no error in folding survives."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
    return model


def test_every_torchvision_classifier_and_segmenter_has_one_owner():
    from torchvision import models

    expected = {*models.list_models(module=models), *models.list_models(module=models.segmentation)}
    listed = [*mobilenet.NAMES, *resnet.NAMES, *vgg.NAMES, *others.family.names()]
    assert sorted(listed) == sorted(expected)
    for name in expected:
        assert registry().find(name).name == name


@pytest.mark.parametrize(
    "name",
    ["resnext50_32x4d", "vgg11_bn", "mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_y_400mf", "vit_b_32"],
)
def test_same_network_as_torchvision(name):
    from torchvision.models import get_model

    model = on_meta(name)
    reference = get_model(name, weights=None)
    assert type(model) is type(reference)
    assert all(parameter.is_meta for parameter in model.parameters())
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in reference.state_dict().items()}


@pytest.mark.slow
def test_all_build_on_meta_and_take_their_classes():
    for name in (name for table in (*TABLES, others.family.names()) for name in table):
        model = on_meta(name, num_classes=7)
        assert count(model) > 0 and all(parameter.is_meta for parameter in model.parameters()), name
        side = registry().find(name).input_size[-1]
        assert outputs_of(model, name, side).shape[:2] == (2, 7), name


def test_unknown_names_are_refused_without_torchvision(monkeypatch):
    monkeypatch.setattr(others.TorchvisionFamily, "names", lambda self: pytest.fail("torchvision was asked"))
    assert others.family.find("resnet18") is None
    assert others.family.find("my_net") is None


def test_cifar_stem_keeps_the_resolution():
    imagenet, cifar = on_meta("resnet18", num_classes=10), on_meta("resnet18", num_classes=10, stem="cifar")
    sizes = {}
    for stem, model in (("imagenet", imagenet), ("cifar", cifar)):
        model.layer1.register_forward_hook(lambda _, __, out, stem=stem: sizes.update({stem: tuple(out.shape)}))
        assert outputs_of(model, "resnet18", 32).shape == (2, 10)
    assert sizes == {"imagenet": (2, 64, 8, 8), "cifar": (2, 64, 32, 32)}
    assert count(cifar) == 11_173_962
    with pytest.raises(RegistryError, match=r"'stem'.*'imagenet', 'cifar'"):
        build("resnet18", stem="mnist")


def test_zero_init_residual():
    assert not build("resnet18", zero_init_residual=True).layer1[0].bn2.weight.any()
    assert build("resnet18").layer1[0].bn2.weight.all()


def test_dropout_and_width():
    assert {m.p for m in on_meta("vgg11", dropout=0.25).modules() if isinstance(m, nn.Dropout)} == {0.25}
    assert {m.p for m in on_meta("mobilenet_v2", dropout=0.3).modules() if isinstance(m, nn.Dropout)} == {0.3}
    half = {name: on_meta(name, width_mult=0.5) for name in mobilenet.NAMES}
    assert all(count(model) < 0.6 * count(on_meta(name)) for name, model in half.items())
    for width in (0, -1, 1e5):
        with pytest.raises(RegistryError, match=r"width_mult is .*more than 0"):
            build("mobilenet_v2", width_mult=width)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_inceptions_build_without_warnings(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = on_meta(name, aux_logits=False, num_classes=5)
    assert outputs_of(model, name, registry().find(name).input_size[1]).shape == (2, 5)
    assert count(on_meta(name)) > count(on_meta(name, aux_logits=False))


def test_input_sizes():
    sizes = {"inception_v3": 299, "swin_v2_t": 256, "vit_h_14": 224, "efficientnet_b1": 240, "fcn_resnet50": 520}
    assert {name: registry().find(name).input_size for name in sizes} == {n: (3, s, s) for n, s in sizes.items()}


def test_segmentation():
    model = on_meta("deeplabv3_mobilenet_v3_large", num_classes=4, aux_loss=True)
    out = model.eval()(torch.empty(2, 3, 64, 64, device="meta"))
    assert out["out"].shape == out["aux"].shape == (2, 4, 64, 64)
    assert outputs_of(on_meta("lraspp_mobilenet_v3_large", num_classes=4), "fcn_resnet50", 64).shape == (2, 4, 64, 64)


# RepVGG


@pytest.mark.parametrize(
    ("size", "millions"),
    [
        ("A0", 8.30),
        ("A1", 12.78),
        ("A2", 25.49),
        ("B0", 14.33),
        ("B1", 51.82),
        ("B1g2", 41.36),
        ("B1g4", 36.12),
        ("B2", 80.31),
        ("B2g4", 55.77),
        ("B3", 110.96),
        ("B3g4", 75.62),
    ],
)
def test_repvgg_deployed_has_the_parameters_of_the_paper(size, millions):
    """Table 4 of the paper: the deployed networks, for 1000 classes, in millions, digits after the second cut off."""
    for name in (f"RepVGG-{size}", f"RepVGG-{size}-woid"):
        assert count(on_meta(name).deploy()) // 10_000 == round(100 * millions)


def test_repvgg_a0_woid_for_ten_classes():
    """The original tool reports 7.8 M parameters."""
    assert count(on_meta("RepVGG-A0-woid", num_classes=10)) == 7_835_114
    blocks = [module for module in on_meta("RepVGG-A0").modules() if isinstance(module, repvgg.RepVGGBlock)]
    assert sum(block.bn_id is not None for block in blocks) == 1 + 3 + 13 and len(blocks) == 22


@pytest.mark.parametrize("identity", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_deployed_equals_the_network(groups, identity):
    torch.manual_seed(0)
    model = randomise(repvgg.RepVGG((1, 3, 2), (8, 8, 16), groups, identity, num_classes=5)).double().eval()
    deployed = model.deploy()
    x = torch.randn(2, 3, 24, 20, dtype=torch.float64)
    expected = model(x)
    torch.testing.assert_close(deployed(x), expected, rtol=1e-12, atol=1e-12)
    convs = [module for module in deployed.modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) == 6 and not any(isinstance(module, nn.BatchNorm2d) for module in deployed.modules())
    assert [conv.groups for conv in convs] == [1, 1, groups, 1, groups, 1]
    for parameter in deployed.parameters():
        parameter.data.zero_()
    assert torch.equal(model(x), expected)


def test_deployed_keeps_dtype_and_mode():
    model = build("RepVGG-A0", num_classes=2).half().train()
    deployed = model.deploy()
    assert not deployed.training and model.training
    assert {parameter.dtype for parameter in deployed.parameters()} == {torch.float16}


@pytest.mark.parametrize("identity", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_slim_repvgg_deploys(groups, identity):
    """All widths of a stage shrink together; in groupwise layers each group keeps equally many."""
    torch.manual_seed(0)
    model = randomise(repvgg.RepVGG((1, 3), (8, 16), groups, identity, num_classes=5)).double().eval()
    stages = {"stages.0": torch.tensor([0, 1, 3, 6]), "stages.1": torch.tensor([0, 2, 5, 6, 9, 11, 12, 15])}
    kept: dict[str, dict[int, torch.Tensor]] = {"head.weight": {1: stages["stages.1"]}}
    reads = None
    for name, block in model.named_modules():
        if isinstance(block, repvgg.RepVGGBlock):
            writes = stages[name[:8]]
            for conv in ("conv3", "conv1"):
                axes = {0: writes}
                if reads is not None:
                    width = getattr(block, conv).weight.shape[1]
                    rows = reads.reshape(block.conv3.groups, -1) % width
                    axes[1] = rows if len(rows) > 1 else rows[0]
                kept[f"{name}.{conv}.weight"] = axes
            for norm in ("bn3", "bn1", "bn_id"):
                if getattr(block, norm) is not None:
                    fields = ("weight", "bias", "running_mean", "running_var")
                    kept.update({f"{name}.{norm}.{field}": {0: writes} for field in fields})
            reads = writes
    slim = apply_result(model, PruningResult(kept))
    assert count(slim) < 0.4 * count(model)
    x = torch.randn(2, 3, 24, 20, dtype=torch.float64)
    deployed = slim.deploy()
    torch.testing.assert_close(deployed(x), slim(x), rtol=1e-12, atol=1e-12)
    assert deployed.block0_0_conv.out_channels == 4 and deployed.block1_0_conv.in_channels == 4


def test_a_norm_without_statistics_cannot_be_fused():
    block = repvgg.RepVGGBlock(4, 4)
    block.bn3 = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(ValueError, match="running statistics"):
        block.fuse()


# timm


def test_timm_models():
    import timm

    architecture = registry().find("timm/resnet18")
    assert architecture.input_size == (3, 224, 224)
    assert set(architecture.options) == {"num_classes", "in_chans", "drop_rate", "drop_path_rate", "global_pool"}
    model = on_meta("timm/resnet18", num_classes=7, in_chans=1, global_pool="max")
    assert type(model) is timm.models.ResNet
    assert model.conv1.weight.shape[1] == 1 and model.fc.weight.shape == (7, 512)
    assert architecture.example_input(1, 64, options={"in_chans": 1}).shape == (1, 1, 64, 64)
    assert architecture.example_input(1, options={"num_classes": 7}).shape == (1, 3, 224, 224)
    assert len(zoo_slim.list_models("timm/*")) == len(timm.list_models())
    assert zoo_slim.list_models("timm/resnet18") == ["timm/resnet18"]


def test_a_timm_tag_is_kept_in_the_name_and_sets_the_classes():
    architecture = registry().find("timm/vit_base_patch16_224.augreg_in21k")
    assert architecture.name == "timm/vit_base_patch16_224.augreg_in21k"
    assert on_meta(architecture.name).head.weight.shape[0] == 21843
    assert on_meta("timm/vit_base_patch16_224.augreg_in1k").head.weight.shape[0] == 1000
    assert registry().find("timm/resnet50.a1_in1k").input_size == (3, 224, 224)
    assert registry().find("timm/efficientnet_b3").input_size != (3, 224, 224)


@pytest.mark.parametrize(
    "name",
    ["timm/hf-hub:a/b", "timm/local-dir:a", "timm/../a", "timm/", "timm/resnet18.nope", "timm/resnet18.", "timm"],
)
def test_timm_names_that_are_no_models(name):
    with pytest.raises(RegistryError, match="no architecture is called"):
        registry().find(name)


@pytest.mark.parametrize(
    "option", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained", "features_only"]
)
def test_timm_options_are_data_only(option):
    with pytest.raises(RegistryError, match=f"no option '{option}'"):
        build("timm/resnet18", **{option: "x"})


def test_what_a_timm_model_refuses_is_a_registry_error():
    with pytest.raises(RegistryError, match=r"'timm/vgg11' cannot be built with drop_path_rate=0\.1"):
        build("timm/vgg11", drop_path_rate=0.1)
    with pytest.raises(RegistryError, match="global_pool='token'"):
        build("timm/vgg11", global_pool="token")


def test_a_name_that_only_timm_knows_is_offered():
    with pytest.raises(RegistryError, match="did you mean 'timm/efficientnet_lite0'"):
        registry().find("efficientnet_lite0")
