"""Convert photos that are already in memory to PIL images."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from stacked_ram.runtime.errors import UserError

InMemory = Image.Image | np.ndarray | torch.Tensor


def array_image(pixels: np.ndarray | torch.Tensor) -> Image.Image:
    """Make a PIL image from an array H x W x C (or H x W) or a tensor C x H x W.

    C is 1 (grayscale) or 3 (RGB); the values are uint8, or floats from 0 to 1. Raises UserError
    for other shapes, types and ranges.
    """
    if isinstance(pixels, torch.Tensor):
        axes, values = "a tensor is C x H x W", pixels.detach().cpu().numpy()
        values = np.moveaxis(values, 0, -1) if values.ndim == 3 else values
    elif isinstance(pixels, np.ndarray):
        axes, values = "an array is H x W x C or H x W", pixels
    else:
        raise UserError(f"photo: {type(pixels).__name__} is no path, PIL image, array or tensor")
    channels = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or channels not in (1, 3) or values.size == 0:
        raise UserError(f"photo: shape {tuple(pixels.shape)}: {axes}, and C is 1 or 3")
    if np.issubdtype(values.dtype, np.floating):
        if not (values.min() >= 0 and values.max() <= 1):
            raise UserError("photo: floats outside 0 to 1; divide by 255, or give uint8")
        values = (values * 255).round().astype(np.uint8)
    if values.dtype != np.uint8:
        raise UserError(f"photo: {values.dtype} values; give uint8, or floats from 0 to 1")
    return Image.fromarray(
        np.ascontiguousarray(values[..., 0] if values.shape[2:] == (1,) else values)
    )
