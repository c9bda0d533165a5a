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
from stacked_ram.models.attention.base import with_zooms
from stacked_ram.models.attention.hard import CategoricalPolicy
from stacked_ram.models.ram import RAM

Locate = Callable[[Batch], Tensor]  # the locations of a batch's glimpses, B x T x S x 2


def control_passes(model: RAM, photos: int, seed: int, boxed: bool) -> dict[str, dict[str, Any]]:
    """What `predict_split` does otherwise for each control, by the control's name.

    photos: number of photos of the split. boxed: whether objects' boxes are known; with them the
    last control says what the best locations can win.
    """
    random_NTS2 = random_locations(model, photos, torch.Generator().manual_seed(seed))
    controls: dict[str, dict[str, Any]] = {
        "centre": {"location_source": "centre"},
        "random": {"locate": lambda batch: random_NTS2[batch.index_B.cpu()]},
        "first glimpse only": {"num_glimpses": 1},
    }
    if boxed:
        controls["box given"] = {"locate": lambda batch: at_boxes(model, batch)}
    return controls


def chosen_from(model: RAM) -> int:
    """The first step whose location the policy, or the soft attention, chooses."""
    return 0 if not model.has_policy or model.first_location == "learned" else 1


def random_locations(model: RAM, photos: int, generator: torch.Generator) -> Tensor:
    """Locations drawn in place of those that the policy chooses, N x T x S x 2 (x 3 with widths).

    Uniform over the photo; or, for a policy over cells, centres of distinct cells (once all are
    taken, of any), and any width where it chooses widths. Steps that the policy does not choose
    stay at the centre, where evaluation puts them.
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
        if first:  # the cell that the first glimpse has seen comes last
            seen_R = policy.visited([locations_NTS2[:1, 0, 0].to(model.mean.device)])[0]
            order_NSR += seen_R.cpu().float()
        cells_NTS = torch.randint(cells, drawn, generator=generator)
        distinct = min(drawn[1], cells)
        cells_NTS[:, :distinct] = order_NSR.argsort(2)[..., :distinct].transpose(1, 2)
        locations_NTS2[:, first:] = centres_R2[cells_NTS]
    else:
        locations_NTS2[:, first:] = 2 * torch.rand(*drawn, 2, generator=generator) - 1
    return locations_NTS2.expand(-1, -1, len(model.levels), -1)


def at_boxes(model: RAM, batch: Batch) -> Tensor:
    """The middle of each object's box, for every glimpse; the photo's where there is no box. Of
    several widths, the narrowest that holds the box; the widest if none does."""
    middle_B2 = (batch.boxes_B4[:, :2] + batch.boxes_B4[:, 2:]) / 2
    middle_B2 = (middle_B2 / batch.sizes_B2.flip(1) * 2 - 1).nan_to_num(0.0).clamp(-1, 1)
    shape = len(middle_B2), model.num_glimpses, len(model.levels), -1
    if model.num_zooms == 1:
        return middle_B2[:, None, None].expand(shape)
    retina = model.levels[-1].retina
    view = retina.view(batch.photos(model))
    sides_B = (batch.boxes_B4[:, 2:] - batch.boxes_B4[:, :2]).amax(1)
    zoom_B = torch.zeros_like(sides_B)
    for zoom in range(model.num_zooms - 1):
        at = torch.cat([middle_B2, torch.full_like(middle_B2[:, :1], zoom)], 1)
        boxes_BK4 = retina.boxes(view, at)
        zoom_B += (boxes_BK4[:, 0, 2] - boxes_BK4[:, 0, 0]) < sides_B
    return torch.cat([middle_B2, zoom_B[:, None]], 1)[:, None, None].expand(shape)
