"""Photos that are in memory already, as PIL images."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from stacked_ram.runtime.errors import UserError

InMemory = Image.Image | np.ndarray | torch.Tensor


def array_image(pixels: np.ndarray | torch.Tensor) -> Image.Image:
    """A PIL image of an array H x W x C (or H x W) or of a tensor C x H x W.

    C is 1 (grayscale) or 3 (RGB); the values are uint8, or floats from 0 to 1. Raises UserError
    for other shapes, types and ranges.
    """
    is_tensor = isinstance(pixels, torch.Tensor)
    if not is_tensor and not isinstance(pixels, np.ndarray):
        raise UserError(f"photo: {type(pixels).__name__} is no path, PIL image, array or tensor")
    shape = tuple(pixels.shape)
    channels = shape[0 if is_tensor else -1] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or channels not in (1, 3) or 0 in shape:
        wanted = "a tensor is C x H x W" if is_tensor else "an array is H x W x C or H x W"
        raise UserError(f"photo: shape {shape}: {wanted}, and C is 1 or 3")
    if is_tensor:
        pixels = pixels.detach().cpu()
        pixels = (pixels.permute(1, 2, 0) if pixels.ndim == 3 else pixels).numpy()
    if pixels.ndim == 3 and channels == 1:
        pixels = pixels[..., 0]
    if np.issubdtype(pixels.dtype, np.floating):
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise UserError("photo: floats outside 0 to 1; divide by 255, or give uint8")
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise UserError(f"photo: {pixels.dtype} values; give uint8, or floats from 0 to 1")
    return Image.fromarray(np.ascontiguousarray(pixels))
