"""Controls: the same model, made to look elsewhere or less. What the policy must beat.

A control changes exactly the locations that the policy chooses: a first glimpse that it does not
choose stays where it is, and a policy over cells is replaced by distinct cells, as it takes them.

N photos of a split   B photos of a batch   T steps   S levels   R cells
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stacked_ram.data.batch import Batch
from stacked_ram.data.dataset import Dataset
from stacked_ram.evaluation.objects import objects_of
from stacked_ram.models.attention.base import with_zooms
from stacked_ram.models.attention.hard import CategoricalPolicy
from stacked_ram.models.ram import RAM

Locate = Callable[[Batch], Tensor]  # the locations of a batch's glimpses, B x T x S x 2


def control_passes(
    model: RAM, dataset: Dataset, seed: int, boxed: bool
) -> dict[str, dict[str, Any]]:
    """What `predict_split` does otherwise for each control, by the control's name.

    boxed: whether objects' boxes are known; with them the last control says what the best locations
    can win.
    """
    random_NTS2 = random_locations(model, len(dataset), torch.Generator().manual_seed(seed))
    controls: dict[str, dict[str, Any]] = {
        "centre": {"location_source": "centre"},
        "random": {"locate": lambda batch: random_NTS2[batch.index_B.cpu()]},
        "first glimpse only": {"num_glimpses": 1},
    }
    if boxed:
        controls["box given"] = {
            "locate": lambda batch: at_boxes(
                model, batch, objects_of(dataset, batch) if dataset.multi_label else None
            )
        }
    return controls


def chosen_from(model: RAM) -> int:
    """The first step whose location the policy, or the soft attention, chooses."""
    return 0 if not model.has_policy or model.first_location == "learned" else 1


def random_locations(model: RAM, photos: int, generator: torch.Generator) -> Tensor:
    """Locations drawn in place of those that the policy chooses, N x T x S x 2 (x 3 with widths).

    Uniform over the photo; or, for a policy over cells, centres of cells that the policy could
    still choose (once all are taken, of any), and any width where it chooses widths. Steps that the
    policy does not choose stay at the centre, where evaluation puts them.
    """
    steps, first = model.num_glimpses, chosen_from(model)
    levels = 1 if model.shares_location else len(model.levels)
    locations_NTS2 = with_zooms(torch.zeros(photos, steps, levels, 2), model.num_zooms)
    drawn = photos, steps - first, levels
    policy = model.levels[-1].attention
    if isinstance(policy, CategoricalPolicy):
        centres_R2 = policy.centres_R2.cpu()
        cells = len(centres_R2)
        order_NSR = torch.rand(photos, levels, cells, generator=generator)
        locations_NTS2[:, first:] = centres_R2[torch.randint(cells, drawn, generator=generator)]
        for step in range(min(steps, first + cells)):
            for order_NR, location_N2 in zip(
                order_NSR.unbind(1), locations_NTS2[:, step].unbind(1), strict=True
            ):
                if step >= first:
                    location_N2[:] = centres_R2[order_NR.argmin(1)]
                visited_NR = policy.visited([location_N2.to(model.mean.device)])
                order_NR += visited_NR.cpu()  # they come last from now on
    else:
        locations_NTS2[:, first:] = 2 * torch.rand(*drawn, 2, generator=generator) - 1
    return locations_NTS2.expand(-1, -1, len(model.levels), -1)


def at_boxes(model: RAM, batch: Batch, boxes_BO4: Tensor | None = None) -> Tensor:
    """The middle of each object's box, for every glimpse; the photo's where there is no box. Of
    several widths, the narrowest that holds the box; the widest if none does. boxes_BO4: those of
    several objects, which are looked at in turn."""
    if boxes_BO4 is None:
        boxes_BO4 = batch.boxes_B4[:, None]
    known_B1 = boxes_BO4.isfinite().all(2).sum(1, keepdim=True).clamp(min=1)
    middle_BO2 = (boxes_BO4[..., :2] + boxes_BO4[..., 2:]) / 2
    middle_BO2 = middle_BO2 / batch.sizes_B2.flip(1)[:, None] * 2 - 1
    places_BOX = middle_BO2.nan_to_num(0.0).clamp(-1, 1)
    if model.num_zooms > 1:
        retina = model.levels[-1].retina
        view = retina.view(batch.photos(model))
        sides_BO = (boxes_BO4[..., 2:] - boxes_BO4[..., :2]).amax(2)
        zoom_BO = torch.zeros_like(sides_BO)
        for zoom in range(model.num_zooms - 1):
            for number, middle_B2 in enumerate(places_BOX.unbind(1)):
                at = torch.cat([middle_B2, torch.full_like(middle_B2[:, :1], zoom)], 1)
                boxes_BK4 = retina.boxes(view, at)
                width_B = boxes_BK4[:, 0, 2] - boxes_BK4[:, 0, 0]
                zoom_BO[:, number] += width_B < sides_BO[:, number]
        places_BOX = torch.cat([places_BOX, zoom_BO[..., None]], 2)
    turn_BT = torch.arange(model.num_glimpses, device=known_B1.device) % known_B1
    places_BTX = places_BOX.gather(1, turn_BT[:, :, None].expand(-1, -1, places_BOX.shape[2]))
    return places_BTX[:, :, None].expand(-1, -1, len(model.levels), -1)
