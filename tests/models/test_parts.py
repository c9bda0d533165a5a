"""The model from its parts: built-in parts, and custom parts as objects and by import path."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from variants import VARIANTS, batch_of, config_of, make, pixels

from stacked_ram.api import create_model, list_models
from stacked_ram.config.schema import Config, ModelConfig
from stacked_ram.config.yaml import from_dict, to_dict
from stacked_ram.models.attention.hard import GaussianPolicy
from stacked_ram.models.attention.soft import SoftAttention
from stacked_ram.models.build import build_model
from stacked_ram.models.core import GRUCore
from stacked_ram.models.glance import Glance
from stacked_ram.models.level import Level
from stacked_ram.models.ram import RAM
from stacked_ram.models.retina.retina import PatchRetina
from stacked_ram.models.retina.what import DenseWhat
from stacked_ram.ops.geometry import GlimpseGeometry
from stacked_ram.runtime.errors import UserError

OWN = """
from torch import nn
from stacked_ram.models.core import GRUCore

class Core(GRUCore):
    def __init__(self, *, in_features, out_features, scale=1.0):
        super().__init__(in_features, out_features)
        self.scale = scale

class NoWidth(nn.Module):
    def __init__(self, **sizes):
        super().__init__()

def function(**anything):
    raise AssertionError("a configuration runs no function")
"""


def retina(channels: int = 3) -> PatchRetina:
    what = DenseWhat(channels=channels, num_patches=2, patch_size=4, out_features=8)
    geometry = GlimpseGeometry(patch_size=4, num_patches=2)
    return PatchRetina(geometry, [what], where_size=4, feature_size=12)


@pytest.mark.parametrize("name", VARIANTS)
def test_uint8_and_float_images_give_the_same_answer(name):
    model = make(name).eval()
    images, sizes = batch_of([(40, 52), (33, 41)])
    with torch.no_grad():
        whole = model(images, sizes).logits_BTN
        torch.testing.assert_close(
            model(images / 255, sizes).logits_BTN, whole, atol=1e-3, rtol=1e-3
        )
        halves = model((images.double() / 255), sizes).logits_BTN
        torch.testing.assert_close(halves, whole, atol=1e-3, rtol=1e-3)
        assert torch.equal(model(model.photos(images, sizes)).logits_BTN, whole)


def test_images_with_another_number_of_channels_are_refused():
    with pytest.raises(ValueError, match="have 1 channels; this model takes 3"):
        make("dense")(pixels(channels=1))


def test_a_model_from_its_parts():
    torch.manual_seed(0)
    model = RAM(
        retina=retina(), core=GRUCore(12, 16), attention=GaussianPolicy(16, 0.2), num_classes=5,
        num_glimpses=4, first_location="learned", learned_stop=True, dropout=0.1,
    )  # fmt: skip
    trace = model(pixels(), rollouts=2)
    assert trace.logits_BTN.shape == (6, 4, 5)
    assert trace.chosen_T == (True,) * 4
    (trace.logits_BTN.sum() + trace.log_probs_BTS.sum() + trace.stop_logits_BT.sum()).backward()
    assert model.backbone_parameters() == [] and not model.needs_whole_photo


def test_soft_attention_and_a_glance_from_their_parts():
    glance = Glance((16, 16), (2, 2), channels=1, feature_size=12, backbone=None)
    model = RAM(
        retina=retina(1), core=GRUCore(12, 16), glance=glance, num_classes=2, mean=[0.5], std=[0.2],
        attention=SoftAttention(16, region_features=glance.region_features, regions=(2, 2)),
    )  # fmt: skip
    trace = model(torch.rand(2, 1, 30, 20))
    assert not model.has_policy and model.baseline is None
    assert trace.region_weights_BTR.shape == (2, 6, 4)


def test_levels_of_a_stack_from_their_parts():
    levels = [
        Level(retina(), GRUCore(12, 16), None),
        Level(retina(), GRUCore(12 + 16, 16), GaussianPolicy(16, 0.2)),
    ]
    trace = RAM(levels=levels, num_classes=2)(pixels())
    assert trace.locations_BTS2.shape == (3, 6, 2, 2)
    assert torch.equal(trace.locations_BTS2[:, :, 0], trace.locations_BTS2[:, :, 1])


def test_parts_that_do_not_fit_are_refused_by_name():
    with pytest.raises(ValueError, match="retina, core and attention"):
        RAM(retina=retina(), core=GRUCore(12, 16), num_classes=2)
    glance = Glance((16, 16), (2, 2), channels=3, feature_size=7, backbone=None)
    with pytest.raises(ValueError, match="glance has 7 features"):
        RAM(
            retina=retina(), core=GRUCore(12, 16), attention=GaussianPolicy(16, 0.2),
            glance=glance, num_classes=2,
        )  # fmt: skip


def test_steps_equal_the_forward_pass():
    model = make("glance_core").eval()
    with torch.no_grad():
        trace, states = model(pixels()), list(model.steps(model.photos(pixels())))
    assert [state.step for state in states] == [0, 1, 2, 3]
    torch.testing.assert_close(states[0].glance_logits_RN, trace.glance_logits_BN)
    for state in states[1:]:
        scores = model.scores(state.outputs[-1])
        torch.testing.assert_close(scores, trace.logits_BTN[:, state.step - 1])


# ------------------------------------------------------------------ from a configuration


def test_create_model_takes_a_configuration_and_fields():
    config = Config(model=config_of("dense"))
    model = create_model(config, 5, num_glimpses=2)
    assert model(torch.rand(2, 3, 20, 30)).logits_BTN.shape == (2, 2, 5)
    assert model.config.patch_size == config.model.patch_size
    assert create_model(config, 5, channels=1)(torch.rand(1, 1, 9, 9)).logits_BTN.isfinite().all()
    with pytest.raises(UserError, match="num_glimpse`; did you mean `num_glimpses"):
        create_model(config, 5, num_glimpse=2)


def test_every_listed_part_is_accepted_by_its_field():
    for field, names in list_models().items():
        for name in names:
            ModelConfig(**{field: name}, glance=(16, 16))


@pytest.mark.parametrize("field", list_models())
def test_an_unknown_part_is_refused_by_the_name_of_its_field(field):
    with pytest.raises(UserError, match=rf"^{field}: `resnet` is none of .* nor an import path"):
        ModelConfig(**{field: "resnet"})
    with pytest.raises(UserError, match=f"^{field}_options: belong to an import path"):
        ModelConfig(**{f"{field}_options": {"width": 3}})


def test_a_part_is_found_by_its_import_path(tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    config = ModelConfig(core="own_parts:Core", core_options={"scale": 2.5})
    again = from_dict(to_dict(Config(model=config)), "a file").model
    assert again == config
    core = build_model(again, num_classes=3).levels[0].core
    assert type(core).__name__ == "Core" and core.scale == 2.5
    for path, options, message in (
        ("own_part:Core", {}, "cannot import own_part"),
        ("own_parts:Cor", {}, "has no Cor"),
        ("own_parts:function", {}, "not a class of torch.nn.Module"),
        ("own_parts:Core", {"skale": 1}, "skale.*core_options"),
        ("own_parts:NoWidth", {}, "no `out_features`"),
    ):
        with pytest.raises(UserError, match=f"^core: {path}: .*{message}") as caught:
            build_model(ModelConfig(core=path, core_options=options), num_classes=3)
        assert "\n" not in str(caught.value)


def test_a_custom_differentiable_attention_needs_no_glance():
    class Still(nn.Module):
        differentiable = True

        def __init__(self):
            super().__init__()
            self.where = nn.Linear(16, 2)

        def forward(self, state_RD, context, **_):
            from stacked_ram.models.attention.base import PolicyOutput

            location = self.where(state_RD).tanh()
            nothing = location.new_zeros(len(location))
            return PolicyOutput(location, location, location, nothing, nothing)

    model = RAM(retina=retina(), core=GRUCore(12, 16), attention=Still(), num_classes=2)
    model(pixels()).logits_BTN.sum().backward()
    assert (model.levels[0].attention.where.weight.grad != 0).any()
