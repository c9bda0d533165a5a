"""The configuration: invalid combinations are refused by name; YAML in, YAML out."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from stacked_ram.cli import main as cli
from stacked_ram.config import resolve
from stacked_ram.config.resolve import resolve_auto
from stacked_ram.config.schema import Config, DataConfig, ModelConfig, TrainingConfig
from stacked_ram.config.yaml import (
    field_sections,
    from_dict,
    load_config,
    replace_fields,
    to_dict,
)
from stacked_ram.data.dataset_info import read_dataset_info
from stacked_ram.runs.folder import save_config
from stacked_ram.runtime.errors import UserError

GLANCE = dict(glance=(64, 64))
WRONG_MODELS = {
    "num_levels": [dict(stack="rnn"), dict(num_levels=2)],
    "levels": [
        dict(levels=(0,)),
        dict(stack="conv", num_levels=2, levels=(2,)),
        dict(stack="conv", num_levels=3, levels=()),
        dict(stack="conv", num_levels=3, levels=(2, 1)),
        dict(stack="conv", num_levels=3, levels=(1, 1)),
    ],
    "retina backbone": [dict(retina="backbone", stack="conv", num_levels=2)],
    "attention soft": [
        dict(attention="soft"),
        dict(attention="soft", stack="rnn", num_levels=2, **GLANCE),
        dict(attention="soft", policy="categorical", **GLANCE),
        dict(attention="soft", policy_reads="map", **GLANCE),
    ],
    "glance": [
        dict(policy_reads="map"),
        dict(policy="categorical", policy_reads="map"),
        dict(glance=(0, 10)),
        dict(glance_starts="location"),
        dict(glance_starts="location", **GLANCE),
        dict(glance_starts="location", attention="soft", first_location="learned", **GLANCE),
    ],
    "glance_dropout": [
        dict(glance_dropout=0.5),
        dict(glance_dropout=1.0, **GLANCE),
        dict(glance_dropout=0.5, glance_starts="location", first_location="learned", **GLANCE),
    ],
    "inhibition": [
        dict(inhibition=1),
        dict(inhibition=-1, policy="categorical"),
        dict(inhibition=1, attention="soft", **GLANCE),
    ],
    "conv_widths": [
        dict(conv_widths=(8, 16)),
        dict(conv_widths=(), retina="conv"),
        dict(conv_widths=(8, 0), retina="conv"),
    ],
    "policy_trains_glance": [
        dict(policy_trains_glance=True),
        dict(policy_trains_glance=True, **GLANCE),
        dict(policy_trains_glance=True, attention="soft", **GLANCE),
        dict(
            policy_trains_glance=True,
            policy="categorical",
            retina="backbone",
            freeze_backbone=True,
            **GLANCE,
        ),
    ],
    "start_size": [dict(start_size=2), dict(start_size=0)],
    "regions": [dict(regions=(0, 2))],
    "patch_size": [dict(patch_size=0)],
    "glimpse_scale": [dict(glimpse_scale=0.0)],
    "std": [dict(std=0.0), dict(std_end=-1.0), dict(std=float("nan"))],
    "dropout": [dict(dropout=1.0)],
}
WRONG_TRAINING = {
    "rollouts": [dict(estimator="leave_one_out"), dict(estimator="pathwise", rollouts=2)],
    "learning_rate": [dict(learning_rate=0.0), dict(learning_rate=float("nan"))],
    "epochs": [dict(epochs=0)],
    "gae_lambda": [dict(gae_lambda=1.5)],
    "ppo_clip": [dict(ppo_clip=0.0)],
    "accumulation_steps": [
        dict(accumulation_steps=0),
        dict(estimator="ppo", accumulation_steps=2),
    ],
    "clip_norm": [dict(clip_norm=0.0)],
    "patience": [dict(patience=0)],
    "random_glimpses": [dict(random_glimpses=-1.0)],
    "label_smoothing": [dict(label_smoothing=1.0)],
}
WRONG_TOGETHER = {
    "estimator ppo": [(dict(attention="soft", **GLANCE), dict(estimator="ppo")),
                      (dict(num_glimpses=1), dict(estimator="ppo"))],
    "rollouts": [(dict(attention="soft", **GLANCE), dict(rollouts=2))],
    "glance_dropout": [
        (dict(glance_dropout=0.5, **GLANCE), dict(estimator="ppo")),
        (dict(glance_dropout=0.5, **GLANCE), dict(estimator="self_critical")),
    ],
    "pathwise": [(dict(policy="categorical", **GLANCE), dict(estimator="pathwise")),
                 (dict(num_glimpses=1), dict(estimator="pathwise"))],
    "entropy_bonus": [({}, dict(entropy_bonus=0.01))],
    "pretrain_epochs": [({}, dict(pretrain_epochs=1))],
}  # fmt: skip
WRONG_DATA = {
    "crop_area": [dict(crop_area=(0.0, 1.0)), dict(crop_area=(0.9, 0.5))],
    "photo_size": [dict(photo_size=(8, 8), short_side=8), dict(photo_size=(0, 8))],
    "mixup": [dict(mixup=0.2)],
    "rand_augment": [dict(rand_augment=31)],
    "workers": [dict(workers=-1)],
}


def cases(table):
    return [(name, values) for name, many in table.items() for values in many]


@pytest.mark.parametrize(("name", "values"), cases(WRONG_MODELS))
def test_invalid_models_are_refused_with_the_reason(name, values):
    with pytest.raises(UserError, match=name) as caught:
        ModelConfig(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "values"), cases(WRONG_TRAINING))
def test_invalid_trainings_are_refused_with_the_reason(name, values):
    with pytest.raises(UserError, match=name):
        TrainingConfig(**values)


@pytest.mark.parametrize(("name", "values"), cases(WRONG_DATA))
def test_invalid_data_are_refused_with_the_reason(name, values):
    with pytest.raises(UserError, match=name):
        DataConfig(**values)


@pytest.mark.parametrize(("name", "values"), cases(WRONG_TOGETHER))
def test_model_and_training_must_fit_together(name, values):
    model, training = values
    with pytest.raises(UserError, match=name):
        Config(model=ModelConfig(**model), training=TrainingConfig(**training))


@pytest.mark.parametrize(
    ("name", "training"), [("patience", dict(patience=3)), ("plateau", dict(schedule="plateau"))]
)
def test_options_that_use_validation_need_a_validation_split(name, training):
    with pytest.raises(UserError, match=name):
        Config(data=DataConfig(train_on="train+valid"), training=TrainingConfig(**training))


def test_files_that_are_not_configs_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_bytes("training:\n  epochs: 2\n".encode("utf-16"))
    with pytest.raises(UserError, match="no text in UTF-8"):
        load_config(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("training:\n  epochs: 1\n  seed: 3\n  epochs: 2\n")
    with pytest.raises(UserError, match="`epochs` is given twice"):
        load_config(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_text("data:\n  dataset: {{ folder }}\n")
    with pytest.raises(UserError, match=r"c\.yaml: not valid YAML at line 2"):
        load_config(tmp_path / "c.yaml")


def test_true_is_not_a_number(tmp_path):
    (tmp_path / "a.yaml").write_text("model:\n  num_glimpses: true\n")
    with pytest.raises(UserError, match=r"a.yaml: model.num_glimpses: true is not a whole number"):
        load_config(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("data:\n  flip: yes\n")
    assert load_config(tmp_path / "b.yaml").data.flip is True


def test_yaml_round_trip(tmp_path):
    config = Config(
        data=DataConfig(photo_size=(224, 320), crop_area=(0.5, 1.0)),
        model=ModelConfig(stack="conv", num_levels=3, levels=(0, 2), std_end=0.1, **GLANCE),
        training=TrainingConfig(clip_norm=None, estimator="leave_one_out", rollouts=4),
    )
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert from_dict(to_dict(config), "x") == config
    (tmp_path / "empty.yaml").write_text("")
    assert load_config(tmp_path / "empty.yaml") == Config()


def test_field_names_are_unique_over_the_sections():
    count = sum(len(dataclasses.fields(part)) for part in (DataConfig, ModelConfig, TrainingConfig))
    assert len(field_sections()) == count


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model:\n  num_glimpse: 3", ["unknown key `model.num_glimpse`", "`num_glimpses`"]),
        ("modle:\n  std: 1", ["unknown section `modle`", "`model`"]),
        ("model:\n  epochs: 3", ["model.epochs", "section `training`"]),
        ("model:\n  std: wide", ["model.std", "wide"]),
        ("model:\n  core: lsmt", ["core: `lsmt`", "did you mean `lstm`"]),
        ("model: 3", ["`model` is not a mapping"]),
        ("- 1", ["sections"]),
        ("model: [", ["not valid YAML"]),
        ("model:\n  stack: rnn", ["num_levels"]),
    ],
)
def test_errors_in_a_file_name_the_file(tmp_path, text, said):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert "wrong.yaml" in str(caught.value) and "\n" not in str(caught.value)
    for part in said:
        assert part in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nothing"):
        load_config(tmp_path / "nothing.yaml")


def test_fields_are_replaced_by_their_flat_names_and_checked():
    config = replace_fields(Config(), {"std": 0.3, "rollouts": 4})
    assert config.model.std == 0.3 and config.training.rollouts == 4
    with pytest.raises(UserError, match="did you mean `std`"):
        replace_fields(Config(), {"sdt": 0.3})
    with pytest.raises(UserError, match="num_levels"):
        replace_fields(Config(), {"stack": "rnn"})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"step_weights": (1, 2)}, "2 for 3 losses: of 3 glimpses"),
        ({"step_weights": (1, 2, 3), "glance": (8, 8)}, "of the glance and 3 glimpses"),
        ({"step_weights": (0, 0, 0)}, "at least one must be above 0"),
        ({"step_weights": (1, 1, 1), "step_losses": "last"}, "only one loss"),
    ],
)
def test_step_weights_must_match_the_losses(values, words):
    with pytest.raises(UserError, match=words):
        replace_fields(Config(), {"num_glimpses": 3, **values})
    assert replace_fields(
        Config(), {"num_glimpses": 3, "glance": (8, 8), "step_weights": (0, 1, 2, 3)}
    ).training.step_weights == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("section", "values", "says"),
    [
        (ModelConfig, {"retina": "resnet"}, "retina: `resnet` is none of dense, conv, backbone"),
        (ModelConfig, {"core": "lsmt"}, "did you mean `lstm`"),
        (ModelConfig, {"num_glimpses": 2.5}, "num_glimpses: 2.5 is not a whole number"),
        (ModelConfig, {"num_glimpses": "3"}, "num_glimpses: `3` is not a whole number"),
        (ModelConfig, {"num_glimpses": True}, "num_glimpses: true is not a whole number"),
        (ModelConfig, {"std": "wide"}, "std: `wide` is not a number"),
        (ModelConfig, {"std": None}, "std: nothing is not a number"),
        (ModelConfig, {"freeze_backbone": 1}, "freeze_backbone: 1 is not true or false"),
        (ModelConfig, {"backbone": 3}, "backbone: 3 is not a text"),
        (ModelConfig, {"glance": (8,)}, r"glance: \(8,\) does not have 2 values"),
        (ModelConfig, {"glance": 8}, "glance: 8 is not a list"),
        (TrainingConfig, {"seed": -1}, "seed: -1 is below 0"),
        (TrainingConfig, {"warmup_epochs": float("inf")}, "warmup_epochs: inf is not finite"),
        (TrainingConfig, {"backbone_learning_rate": -1.0}, "backbone_learning_rate: -1.0 is below"),
        (TrainingConfig, {"save_every": float("nan")}, "save_every: nan is not finite"),
        (TrainingConfig, {"channels_last": "often"}, "channels_last: `often` is none of auto"),
        (DataConfig, {"rotate": float("inf")}, "rotate: inf is not finite"),
        (DataConfig, {"cache_limit": -1.0}, "cache_limit: -1.0 is below 0"),
    ],
)
def test_a_section_refuses_values_of_another_kind_or_out_of_range(section, values, says):
    with pytest.raises(UserError, match=says) as caught:
        section(**values)
    assert "\n" not in str(caught.value)


def test_a_section_converts_values_to_their_types(tmp_path):
    data = DataConfig(dataset=tmp_path, crop_area=[1, 1])
    assert data.dataset == str(tmp_path) and data.crop_area == (1.0, 1.0)
    model = ModelConfig(std=1, num_glimpses=3.0)
    assert isinstance(model.std, float) and isinstance(model.num_glimpses, int)


def test_a_yaml_exponent_needs_no_point(tmp_path):
    (tmp_path / "a.yaml").write_text("training:\n  learning_rate: 1e-4\n  weight_decay: 2.5E-2\n")
    training = load_config(tmp_path / "a.yaml").training
    assert (training.learning_rate, training.weight_decay) == (1e-4, 0.025)


def test_names_of_earlier_versions_are_still_read(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(
        "model: {patch_unit: share}\ntraining: {accumulate: 3, checkpoint_steps: true}\n"
    )
    config = load_config(tmp_path / "a.yaml")
    assert config.model.patch_unit == "fraction"
    assert (config.training.accumulation_steps, config.training.activation_checkpointing) == (3, 1)
    assert replace_fields(config, {"accumulate": 2}).training.accumulation_steps == 2
    (tmp_path / "b.yaml").write_text("training: {accumulate: 3, accumulation_steps: 2}\n")
    with pytest.raises(UserError, match=r"training\.accumulate is now accumulation_steps"):
        load_config(tmp_path / "b.yaml")
    fields = cli.parse("train", ["demo", "--accumulate", "4", "--patch-unit", "share",
                                 "--no-checkpoint-steps", "--channels-last"]).fields  # fmt: skip
    assert (fields.training.accumulation_steps, fields.model.patch_unit) == (4, "fraction")
    assert fields.training.channels_last is True
    assert "note: --accumulate is now --accumulation-steps" in capsys.readouterr().err
    fields = cli.parse("train", ["--patch-unit=share", "--no-channels-last", "demo"]).fields
    assert (fields.training.channels_last, fields.model.patch_unit) == (False, "fraction")


@pytest.mark.parametrize(
    ("precision", "fast", "trained", "used", "says"),
    [
        ("auto", True, False, "bf16", ""),
        ("auto", False, False, "float32", "precision: float32 (cpu has no fast bf16)"),
        ("bf16", False, False, "bf16", "auto would take float32"),
        ("bf16", False, True, "float32", "trained in bf16 and is used in float32"),
        ("bf16", True, True, "bf16", ""),
        ("float32", True, True, "float32", ""),
    ],
)
def test_auto_goes_by_what_the_processor_can(
    precision, fast, trained, used, says, monkeypatch, capsys
):
    monkeypatch.setattr(resolve, "has_fast_bf16", lambda device: fast)
    config = Config(training=TrainingConfig(precision=precision, channels_last="auto"))
    found = resolve_auto(config, torch.device("cpu"), trained=trained).training
    assert found.precision == used
    assert found.channels_last is True
    elsewhere = resolve_auto(config, torch.device("meta"), trained=trained, quiet=True).training
    assert elsewhere.channels_last == (used == "bf16")
    error = capsys.readouterr().err
    assert says in error and len(error.splitlines()) == bool(says)


ODD_YAML = {
    "recursive": "data: &a {dataset: *a}",
    "recursive options": "model: {core: 'a:B', core_options: &a {x: [*a]}}",
    "deep": "data: " + "[" * 3000,
    "deep mapping": "data: " + "{a: " * 400 + "1" + "}" * 400,
    "impossible date": "data: {dataset: 2026-13-45}",
    "odd tag": "training: {epochs: !!int x}",
    "odd boolean": "data: {flip: !!bool x}",
    "odd date": "data: {dataset: !!timestamp x}",
    "many aliases": "a0: &a0 [x, x]\n"
    + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))
    + "data: {dataset: *a29}",
    "python tag": "data: !!python/object/apply:os.system ['touch executed']",
}


@pytest.mark.parametrize("name", ODD_YAML)
def test_odd_yaml_is_refused_by_name_and_executes_nothing(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("config.yaml", "dataset.yaml"):
        (tmp_path / file).write_text(ODD_YAML[name])
    with pytest.raises(UserError, match=r"config\.yaml: not valid YAML"):
        load_config(tmp_path / "config.yaml")
    with pytest.raises(UserError, match=r"dataset\.yaml: not valid YAML"):
        read_dataset_info(tmp_path)
    assert not (tmp_path / "executed").exists()
