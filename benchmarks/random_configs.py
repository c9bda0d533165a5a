"""Build random configurations; use those that are accepted, and see that the others are refused.

    python benchmarks/random_configs.py valid --cases 500 --seed 0
    python benchmarks/random_configs.py invalid --cases 500 --seed 0

`valid`: some fields of a small configuration get other values. Where they are accepted together, a
run trains for two steps, is saved, loaded, tested with its controls, used for a prediction, drawn
and (every tenth) exported. A refusal when the configuration is built or the run starts is fine, and
an export that says in a line that it cannot. Any other error is a fault, and so is more than LIMIT
seconds of processor time. `invalid`: one field gets a value of the wrong type or out of its range;
it must be refused in one line that begins with the field's name. Faults are printed with their
case; the exit code is 1 if there was one. docs/reliability.md holds the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import repository  # noqa: F401  first, so that the package is found
import torch

import stacked_ram as ram
from stacked_ram.cli.export import Export, export
from stacked_ram.config.schema import Config
from stacked_ram.config.yaml import field_sections, replace_fields
from stacked_ram.runs.checkpoint import load_run
from stacked_ram.runtime.errors import RunFailed, UserError
from stacked_ram.training.run import train_run
from stacked_ram.viz.draw import draw_run

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from tiny import tiny_config, tiny_digits, tiny_photos  # noqa: E402

LIMIT = 120  # seconds of processor a case
EVERY = 10  # cases of which one is exported, which takes longer than all else
CNN, SMALL_CNN, TRANSFORMER = "test_efficientnet", "test_resnet", "test_vit"
CHOICES: dict[str, list[Any]] = {
    "short_side": [5, 9, 40],
    "photo_size": [(12, 12), (13, 21), (1, 30), (32, 32)],
    "train_on": ["train+valid"],
    "limit_photos": [1, 2, 5],
    "clutter": ["fixed"],
    "shift": [1, 3],
    "flip": [True],
    "crop_area": [(0.1, 1.0), (0.3, 0.3)],
    "colour_jitter": [0.2, 1.0],
    "rotate": [10.0, 180.0],
    "rand_augment": [5, 30],
    "random_erasing": [0.5, 1.0],
    "mixup": [0.2],
    "cutmix": [1.0],
    "balanced_sampler": [True],
    "cache": ["memory", "disk"],
    "retina": ["conv", "conv", "backbone", "backbone"],
    "patch_size": [1, 2, 3, 5, 8, 16, 32],
    "num_patches": [1, 3, 4],
    "glimpse_scale": [1.0, 1.5, 2.0, 3.0, 0.5],
    "patch_unit": ["fraction"],
    "patch_width": [0.3, 0.5, 1.5, 2.0, 40.0],
    "snap": [False],
    "what_size": [1, 7],
    "where_size": [1, 5],
    "feature_size": [1, 6],
    "backbone": [CNN, SMALL_CNN, TRANSFORMER],
    "freeze_backbone": [True],
    "combine": ["mean"],
    "stack": ["rnn", "conv", "backbone"],
    "num_levels": [2, 3],
    "stack_location": ["shared"],
    "levels": [(0,), (1,), (0, 1)],
    "kernel_size": [1, 2, 5],
    "map_channels": [1, 6],
    "core": ["gru", "rnn", "sum", "transformer"],
    "core_size": [1, 5, 8],
    "dropout": [0.5],
    "num_glimpses": [1, 3, 5],
    "attention": ["soft"],
    "policy": ["categorical"],
    "std": [0.01, 3.0],
    "std_end": [0.05],
    "first_location": ["centre", "learned"],
    "glance": [(6, 8), (16, 16), (32, 32), (1, 1), (5, 40)],
    "glance_stride": [4, 16, 32],
    "glance_starts": ["location"],
    "glance_dropout": [0.5],
    "policy_trains_glance": [True],
    "regions": [(1, 1), (3, 4), (7, 2)],
    "policy_reads": ["map"],
    "num_zooms": [2, 3],
    "start_size": [2, 4],
    "learned_stop": [True],
    "batch_size": [1, 3, 64],
    "optimizer": ["sgd", "adam", "lamb", "lion"],
    "learning_rate": [1e-6, 0.1],
    "backbone_learning_rate": [0.0, 0.01],
    "weight_decay": [0.0, 0.5],
    "schedule": ["step", "plateau", "constant"],
    "warmup_epochs": [0.0, 5.0],
    "clip_norm": [None, 0.1],
    "accumulation_steps": [2, 5],
    "ema_decay": [0.5, 0.99],
    "label_smoothing": [0.2],
    "class_weights": [True],
    "step_losses": ["last"],
    "step_weights": [(1.0, 2.0), (0.0, 1.0, 1.0)],
    "baseline_weight": [0.0],
    "policy_weight": [0.0, 3.0],
    "estimator": ["leave_one_out", "self_critical", "ppo", "pathwise"],
    "reward": ["drop"],
    "glimpse_cost": [0.1],
    "rollouts": [2, 3],
    "entropy_bonus": [0.1],
    "normalise_advantages": [True],
    "pretrain_epochs": [1],
    "random_glimpses": [0.5, 1.0],
    "ppo_epochs": [1, 2],
    "precision": ["auto", "bf16"],
    "cuda_graph": [True],
    "channels_last": [True, "auto"],
    "deterministic": [True],
    "activation_checkpointing": [True],
    "not_finite": ["skip"],
    "metric": ["loss"],
    "patience": [1],
    "pictures_every": [1],
}
# Fields that mean little without another: both are then changed.
WITH = {
    "num_levels": {"stack": ["rnn", "conv", "backbone"]}, "levels": {"stack": ["conv"]},
    "backbone": {"retina": ["backbone"]}, "attention": {"glance": [(6, 8), (32, 32)]},
    "policy_reads": {"glance": [(16, 16)]}, "num_zooms": {"policy": ["categorical"]},
    "stack": {"num_levels": [2, 3]}, "estimator": {"rollouts": [1, 2]},
    "mixup": {"photo_size": [(12, 12)]}, "cutmix": {"photo_size": [(20, 16)]},
    "glimpse_cost": {"learned_stop": [True]}, "pretrain_epochs": {"retina": ["backbone"]},
    "glance_stride": {"retina": ["backbone"]}, "retina": {"patch_size": [4, 16, 32]},
}  # fmt: skip
WRONG = [None, "", "x", "1,2", -1, -0.5, 1e400, float("nan"), 10**12, 3.7, [], [1], [1, 2, 3], {},
         {"a": 1}, True, b"x", "\n", (0, 0), [None]]  # fmt: skip


def drawn(rng: random.Random) -> dict[str, Any]:
    """A few fields with other values than a small configuration's."""
    fields: dict[str, Any] = {}
    for name in rng.sample(sorted(CHOICES), rng.randint(1, 9)):
        fields[name] = rng.choice(CHOICES[name])
        for other, values in WITH.get(name, {}).items():
            fields.setdefault(other, rng.choice(values))
    return fields


def use(config: Config, photo: Path, run: Path, exports: bool) -> str:
    """Train, load, test, predict, draw and, if it is to, export; returns how it ended."""
    train_run(config, run)
    model = ram.load(run)
    model.evaluate(controls=True)
    look = model.look(photo)
    assert abs(float(look.belief.sum()) - 1) < 1e-3
    assert draw_run(load_run(run, "cpu"), out=run / "pictures", limit=1)
    if not exports:
        return "not exported"
    try:
        export(Export(run=run))
    except (UserError, RunFailed) as error:
        one_line(error)
        return "export refused"
    return "exported"


def one_line(error: Exception) -> None:
    if "\n" in str(error).strip():
        raise ValueError(f"several lines: {error}")


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    def too_long(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s of processor time")

    signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def valid(cases: int, seed: int, home: Path) -> Counter[str]:
    """Count what becomes of random configurations."""
    photos, digits = tiny_photos(home / "photos"), tiny_digits(home / "digits")
    picture = next((photos / "test").glob("*/*.png"))
    found: Counter[str] = Counter()
    case = -1
    while found["used"] + found["faults"] < cases:
        case += 1
        rng = random.Random(f"{seed} {case}")
        fields = drawn(rng)
        on_digits = rng.random() < 0.2
        begun = False
        try:
            with limited(LIMIT):
                config = tiny_config(digits if on_digits else photos, epochs=1, limit_photos=9)
                config = replace_fields(config, fields)
                begun = True
                found[use(config, picture, home / f"run-{case}", case % EVERY == 0)] += 1
            found["used"] += 1
        except (UserError, RunFailed) as error:
            kind = "refused when it began" if begun else "refused when built"
            found[kind if "\n" not in str(error).strip() else "faults"] += 1
            if begun:
                print(f"case {case}: {error}", flush=True)
        except Exception as error:
            found["faults"] += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(
                f"FAULT case {case}: {fields}{' on digits' * on_digits}: {type(error).__name__}:"
                f" {str(error)[:300]} ({Path(where.filename).name}:{where.lineno})",
                flush=True,
            )
    return found


def invalid(cases: int, seed: int, home: Path) -> Counter[str]:
    """Count what becomes of wrong values: refused by name, taken (where they are right), faults."""
    rng, found = random.Random(seed), Counter[str]()
    config = tiny_config(tiny_photos(home / "photos"))
    names = sorted(field_sections())
    for case in range(cases):
        name, value = rng.choice(names), rng.choice(WRONG)
        try:
            replace_fields(config, {name: value})
            found["taken"] += 1
        except UserError as error:
            by_name = name in str(error).removeprefix("fields: ").split(":")[0]
            fine = by_name and "\n" not in str(error).strip()
            found["refused by name" if fine else "faults"] += 1
            if not fine:
                print(f"case {case}: {name} {value!r}: {error}")
        except Exception as error:
            found["faults"] += 1
            print(f"case {case}: {name} {value!r}: {type(error).__name__}: {error}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("row", choices=["valid", "invalid"])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as home:
        row = valid if given.row == "valid" else invalid
        found = row(given.cases, given.seed, Path(home))
    counts = ", ".join(f"{count} {what}" for what, count in found.items() if what != "faults")
    print(f"{given.row}, seed {given.seed}: {counts}; {found['faults']} faults")
    return int(found["faults"] > 0)


if __name__ == "__main__":
    sys.exit(main())
