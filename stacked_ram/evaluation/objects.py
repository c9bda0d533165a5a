"""Whether glimpses were at the objects whose boxes a data set knows.

B photos   T steps   S levels   K patches   O objects of a photo, nan where there are fewer
"""

from __future__ import annotations

import torch
from torch import Tensor

from stacked_ram.data.batch import Batch
from stacked_ram.data.dataset import Dataset


def objects_of(dataset: Dataset, batch: Batch) -> Tensor:
    """The boxes of all objects in pixels of the batch's photos, B x O x 4."""
    if dataset.objects.shape[1] == 1:  # the batch knows it also where the photo is composed anew
        return batch.boxes_B4[:, None]
    index_B = batch.index_B.cpu().numpy()
    stored_B2 = torch.from_numpy(dataset.sizes[index_B]).to(batch.sizes_B2.device)
    scale_B14 = (batch.sizes_B2 / stored_B2).flip(1).repeat(1, 2)[:, None]
    return torch.from_numpy(dataset.objects[index_B]).to(batch.boxes_B4.device) * scale_B14


def narrowest(boxes_BTSK4: Tensor) -> Tensor:
    """The boxes of the narrowest patch of all levels, B x T x 4."""
    flat = boxes_BTSK4.flatten(2, 3)
    widths = flat[..., 2] - flat[..., 0]
    return flat[:, :, int(widths.mean((0, 1)).argmin())]


def hits(locations_BT2: Tensor, boxes_BO4: Tensor, sizes_B2: Tensor) -> Tensor:
    """Whether each location lies in a box, its edges included (1, 0, or nan without a box),
    B x T."""
    pixels_BT12 = ((locations_BT2 + 1) / 2 * sizes_B2.flip(1)[:, None])[:, :, None]
    boxes_B1O4 = boxes_BO4[:, None]
    inside_BTO2 = (pixels_BT12 >= boxes_B1O4[..., :2]) & (pixels_BT12 <= boxes_B1O4[..., 2:])
    return inside_BTO2.all(3).any(2).float() + 0 * boxes_BO4[:, 0].sum(1)[:, None]


def covered(patches_BT4: Tensor, boxes_BO4: Tensor) -> Tensor:
    """Fraction of a box that the patch of each glimpse covers, of the box that it covers best,
    B x T."""
    shared_BTO, (_, areas_BTO) = overlap(patches_BT4, boxes_BO4)
    fraction_BTO = (shared_BTO / areas_BTO).nan_to_num(-1.0)
    return fraction_BTO.amax(2) + 0 * boxes_BO4[:, 0].sum(1)[:, None]


def at_object(patches: Tensor, boxes_BO4: Tensor) -> Tensor:
    """Whether each patch was at an object: box and patch share at least half the area of the
    smaller of the two. patches: B x ... x 4. The result, B x ...: 1, 0, or nan without a box."""
    shared, areas = overlap(patches, boxes_BO4)
    found = (shared >= torch.minimum(*areas) / 2).any(-1).float()
    without_B = 0 * boxes_BO4[:, 0].sum(1)
    return found + without_B.view(-1, *[1] * (found.ndim - 1))


def overlap(patches: Tensor, boxes_BO4: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The area that patches, B x ... x 4, share with each box, B x ... x O; and the areas of
    both."""
    box = boxes_BO4.view(len(boxes_BO4), *[1] * (patches.ndim - 2), -1, 4)
    patch = patches.unsqueeze(-2)
    low = torch.maximum(patch[..., :2], box[..., :2])
    high = torch.minimum(patch[..., 2:], box[..., 2:])
    area_of_patch, area_of_box = ((each[..., 2:] - each[..., :2]).prod(-1) for each in (patch, box))
    return (high - low).clamp(min=0).prod(-1), (area_of_patch, area_of_box)
