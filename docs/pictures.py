"""Draw the pictures of docs/concepts, from the run of the demo.

    python main.py demo
    python docs/pictures.py results/demo

Every picture shows what the code does: boxes, patches, weights and figures are those of the model
and of its test. Writes docs/pictures/*.png.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
import stacked_ram as ram
from stacked_ram.evaluation.controls import random_locations
from stacked_ram.training.losses import leave_one_out_advantages, returns

OUT = Path(__file__).parent / "pictures"
PHOTO = Path("datasets/demo/test/8/scan_0028-2.jpg")
LABEL = 8
GLIMPSES = ("#0072b2", "#d55e00", "#009e73")  # told apart by colour-blind readers too


def main(run: str) -> None:
    model = ram.load(run)
    image = np.array(Image.open(PHOTO).convert("RGB"))
    photo = torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0)
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 9})
    with torch.no_grad():
        draw_glimpse(model, image)
        draw_glance(model, image, photo)
        draw_policies(model, image, photo)
        draw_rollouts(model, image, photo)
    report = model.evaluate(controls=True, stop_at=0.9)
    draw_early_exit(report)
    with torch.no_grad():
        draw_judging(model, image, photo, report)


def draw_glimpse(model: ram.Model, image: np.ndarray) -> None:
    result, step = model.look(PHOTO), 1
    figure, axes = canvas([image.shape[1] / image.shape[0], 1, 1])
    show(axes[0], image, f"photo, {image.shape[1]} x {image.shape[0]} pixels")
    for patch, box in enumerate(result.boxes[step]):
        colour = GLIMPSES[patch]
        draw_box(axes[0], box, colour)
        pixels = result.patches[step][patch]
        width = box[2] - box[0]
        show(axes[patch + 1], pixels, f"patch {patch}: {width:.0f} pixels wide,\nread as 16 x 16")
        for spine in axes[patch + 1].spines.values():
            spine.set(visible=True, color=colour, linewidth=2.5)
    save(figure, "glimpse")


def draw_glance(model: ram.Model, image: np.ndarray, photo: torch.Tensor) -> None:
    trace, net = model.net(photo), model.net
    glance = net.photos(photo).resized(net.glance.size)[0].permute(1, 2, 0)
    glance = (glance * net.std + net.mean).clamp(0, 1).numpy()
    weights = trace.region_weights_BTR[0, 1].view(*net.glance.regions).numpy()
    figure, axes = canvas([image.shape[1] / image.shape[0]] * 3)
    show(axes[0], image, "photo")
    show(axes[1], glance, f"glance, {glance.shape[0]} x {glance.shape[1]} pixels")
    show(axes[2], weights, "weights before the second glimpse", cmap="viridis")
    save(figure, "glance")


def draw_policies(model: ram.Model, image: np.ndarray, photo: torch.Tensor) -> None:
    trace = model.net(photo)
    mean_2 = trace.means_BTS2[0, 1, 0]
    figure, axes = canvas([image.shape[1] / image.shape[0]] * 4)
    generator = torch.Generator().manual_seed(0)
    for axis, std in zip(axes, (0.05, 0.15, 0.4), strict=False):
        draws = (mean_2 + std * torch.randn(150, 2, generator=generator)).clamp(-1, 1)
        show(axis, image, f"Gaussian, std {std}")
        axis.plot(*pixels_of(draws, image).T, ".", color=GLIMPSES[1], markersize=4)
        axis.plot(*pixels_of(mean_2, image).T, "+", color="white", markersize=11, markeredgewidth=2)
    rows, columns = model.net.glance.regions
    height, width = image.shape[:2]
    show(axes[3], image, f"categorical, {rows} x {columns} cells")
    weights = trace.region_weights_BTR[0, 1]
    for cell, weight in enumerate(weights / weights.max()):
        corner = cell % columns * width / columns - 0.5, cell // columns * height / rows - 0.5
        axes[3].add_patch(
            Rectangle(
                corner, width / columns, height / rows, linewidth=0.4, edgecolor="white",
                facecolor=(*to_rgb(GLIMPSES[1]), 0.85 * float(weight)),
            )
        )  # fmt: skip
    save(figure, "policies")


def draw_rollouts(model: ram.Model, image: np.ndarray, photo: torch.Tensor) -> None:
    torch.manual_seed(49)  # with which one of the two misses
    model.net.anneal(0.0)  # as wide as at the start of training
    trace = model.net(photo, rollouts=2, sample=True)
    model.net.anneal(1.0)
    label = torch.tensor([LABEL])
    returns_RT = returns(trace, label, "drop")
    advantages_RT = leave_one_out_advantages(returns_RT, 2)
    beliefs_RT = trace.logits_BTN.softmax(2)[:, :, LABEL]
    figure, axes = canvas([image.shape[1] / image.shape[0]] * 2, height=3)
    for row, axis in enumerate(axes):
        show(axis, image, "")
        for step, box in enumerate(trace.boxes_BTSK4[row, :, 0, 0]):
            draw_box(axis, box.numpy(), GLIMPSES[step], str(step + 1))
        beliefs = ", ".join(f"{belief:.0%}" for belief in beliefs_RT[row])
        axis.set_title(
            f"belief in the true class: {beliefs}\nfrom glimpse 2 on: return"
            f" {returns_RT[row, 1]:.2f}, advantage {advantages_RT[row, 1]:+.2f}"
        )
    save(figure, "rollouts")


def draw_early_exit(report: ram.trained.Evaluation) -> None:
    curve = pandas.read_csv(io.BytesIO(report.tables["_early_exit.csv"]))
    figure, axes = plt.subplots(figsize=(5, 2.7), layout="constrained")
    axes.plot(curve["mean_gmacs"] * 1000, 100 * curve["accuracy"], color=GLIMPSES[0])
    steps = np.arange(len(report.accuracy_after) + 1)
    costs = 1000 * (report.gmacs["before"] + steps * report.gmacs["per_glimpse"])
    fixed = [report.accuracy_glance, *report.accuracy_after]
    axes.plot(costs, 100 * np.array(fixed), "o", color=GLIMPSES[1])
    for step, cost, accuracy in zip(steps, costs, fixed, strict=True):
        axes.annotate(
            str(step), (cost, 100 * accuracy), (0, -13), textcoords="offset points",
            fontsize=9, color=GLIMPSES[1], ha="center",
        )  # fmt: skip
    axes.set(xlabel="MMACs a photo, on average", ylabel="accuracy, %")
    axes.set_ylim(bottom=100 * min(fixed) - 6)
    axes.set_title("line: stop when sure enough; dots: 0 to 3 glimpses for every photo")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, "early_exit")


def draw_judging(
    model: ram.Model, image: np.ndarray, photo: torch.Tensor, report: ram.trained.Evaluation
) -> None:
    net = model.net
    random_1TS2 = random_locations(net, 1, torch.Generator().manual_seed(1))
    traces = {
        "policy": (net(photo), report.accuracy),
        "centre": (
            net(photo, location_source="centre"), report.controls["centre"]["accuracy"],
        ),
        "random places": (
            net(photo, locations_BTS2=random_1TS2), report.controls["random"]["accuracy"],
        ),
    }  # fmt: skip
    figure, axes = canvas([image.shape[1] / image.shape[0]] * 3)
    for axis, (name, (trace, accuracy)) in zip(axes, traces.items(), strict=True):
        show(axis, image, f"{name}: {100 * accuracy:.1f} % right")
        for step, box in enumerate(trace.boxes_BTSK4[0, :, 0, 0]):
            draw_box(axis, box.numpy() + step * (name == "centre"), GLIMPSES[step], str(step + 1))
    save(figure, "judging")


def canvas(shapes: list[float], height: float = 2.1) -> tuple[Figure, list[Axes]]:
    """A row of axes of these widths over heights."""
    figure, axes = plt.subplots(
        1, len(shapes), width_ratios=shapes, layout="constrained",
        figsize=((height - 0.35) * sum(shapes) + 0.15 * len(shapes), height),
    )  # fmt: skip
    return figure, list(axes)


def show(axes: Axes, image: np.ndarray, title: str, **how: object) -> None:
    axes.imshow(image, interpolation="nearest", **how)
    axes.set_title(title)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def draw_box(axes: Axes, box: np.ndarray, colour: str, name: str = "") -> None:
    left, top, right, bottom = box - 0.5  # imshow puts pixel 0 from -0.5 to 0.5
    axes.add_patch(
        Rectangle((left, top), right - left, bottom - top, fill=False, color=colour, linewidth=2)
    )
    if name:
        axes.text(
            left + 1, top + 1, name, color="white", va="top", fontsize=8, clip_on=True,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip


def pixels_of(locations: torch.Tensor, image: np.ndarray) -> np.ndarray:
    """Locations in pixels of the photo, as imshow counts them."""
    size = np.array([image.shape[1], image.shape[0]])
    return (locations.numpy().reshape(-1, 2) + 1) / 2 * size - 0.5


def save(figure: Figure, name: str) -> None:
    path = OUT / f"{name}.png"
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)
    print(path, f"{path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
