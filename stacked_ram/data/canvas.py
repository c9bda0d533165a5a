"""Paste digits on canvases: the paper's translated and cluttered tasks, a batch at a time.

Digits (0..255, background exactly 0) are pasted on a black canvas before they are normalised, so
that no visible square surrounds a digit. There is no loop over the batch: pieces are gathered and
added by flat indices, on the device of the digits.

Where pieces overlap, their values are added and clipped at 255, as in the generator published by
the paper's authors (github.com/google-deepmind/mnist-cluttered).

Shapes: B photos per batch, N digits in the pool, C clutter pieces per photo, H W size of a digit.
Source: Mnih et al. 2014, "Recurrent Models of Visual Attention", section 4.1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def compose(
    images_BHW: Tensor,
    canvas: tuple[int, int],
    *,
    translate: bool = True,
    clutter: int = 0,
    clutter_size: int = 8,
    generator: torch.Generator | None = None,
    pool_NHW: Tensor | None = None,
    index_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Paste each digit at a random place on its own black canvas, among pieces of other digits.

    images_BHW: uint8 digits, all of the same size.
    canvas: (height, width) of the result, at least the size of a digit.
    translate: if False, put the digit at the centre.
    clutter: pieces per photo, each a random square of `clutter_size` pixels from another digit.
    generator: the source of random numbers. It may be on another device than the digits (a CPU
        generator gives the same canvases on every device). None: the default generator of the
        digits' device.
    pool_NHW: the digits from which clutter is cut, on the same device; None: the batch.
    index_B: the position of each digit in the pool, so that no digit is its own clutter. Without
        it, a piece comes from the digit itself with probability 1/N.

    Returns pixels_B1HW (uint8, the canvases) and boxes_B4 (int64; left, top, right, bottom of the
    whole digit image in pixels, right and bottom exclusive), both on the digits' device.

    Raises ValueError if the digits or the pieces do not fit.
    """
    count, height, width = images_BHW.shape
    canvas_height, canvas_width = canvas
    _check(images_BHW, canvas, clutter, clutter_size, pool_NHW)
    device = images_BHW.device

    def draw(high: int, *shape: int) -> Tensor:
        """Draw whole numbers in [0, high)."""
        source = generator.device if generator is not None else device
        numbers = torch.randint(high, shape, generator=generator, device=source)
        return numbers.to(device, non_blocking=True)

    if translate:
        top_B = draw(canvas_height - height + 1, count)
        left_B = draw(canvas_width - width + 1, count)
    else:
        top_B = torch.full((count,), (canvas_height - height) // 2, device=device)
        left_B = torch.full((count,), (canvas_width - width) // 2, device=device)
    boxes_B4 = torch.stack([left_B, top_B, left_B + width, top_B + height], dim=1)

    # 16 bits can hold the sum of more than a hundred pieces before it is clipped.
    sums_BX = torch.zeros(count, canvas_height * canvas_width, dtype=torch.int16, device=device)
    places_BX = _window(top_B * canvas_width + left_B, height, width, canvas_width).flatten(1)
    sums_BX.scatter_(1, places_BX, images_BHW.flatten(1).to(torch.int16))

    if clutter:
        pool_NX = (images_BHW if pool_NHW is None else pool_NHW).flatten(1)
        if pool_NHW is None:
            index_B = torch.arange(count, device=device)
        if index_B is None:
            other_BC = draw(len(pool_NX), count, clutter)
        else:  # 1 to N-1 positions further, modulo N: any digit but the photo's own
            steps_BC = 1 + draw(len(pool_NX) - 1, count, clutter)
            other_BC = (index_B.to(device)[:, None] + steps_BC) % len(pool_NX)
        size = clutter_size
        cut_BC = draw(height - size + 1, count, clutter) * width
        cut_BC += draw(width - size + 1, count, clutter)
        from_BCSS = _window(other_BC * (height * width) + cut_BC, size, size, width)
        put_BC = draw(canvas_height - size + 1, count, clutter) * canvas_width
        put_BC += draw(canvas_width - size + 1, count, clutter)
        to_BCSS = _window(put_BC, size, size, canvas_width)
        pieces_BX = pool_NX.reshape(-1)[from_BCSS.flatten(1)].to(torch.int16)
        sums_BX.scatter_add_(1, to_BCSS.flatten(1), pieces_BX)
        sums_BX.clamp_(max=255)
    pixels_B1HW = sums_BX.to(torch.uint8).view(count, 1, canvas_height, canvas_width)
    return pixels_B1HW, boxes_B4


def paste(patterns_NHW: Tensor, pieces_BP3: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Draw each canvas from its pieces, later ones over earlier ones; return pixels_B1HW.

    patterns_NHW: uint8. pieces_BP3: (pattern, row, column) of each piece, whole numbers, in the
    order of drawing; every piece lies inside the canvas.
    """
    _, height, width = patterns_NHW.shape
    pattern_BP, top_BP, left_BP = pieces_BP3.long().unbind(2)
    pixels_BX = patterns_NHW.new_zeros(len(pieces_BP3), canvas[0] * canvas[1])
    start_BP = top_BP * canvas[1] + left_BP
    for piece in range(pieces_BP3.shape[1]):
        places_BX = _window(start_BP[:, piece], height, width, canvas[1]).flatten(1)
        pixels_BX.scatter_(1, places_BX, patterns_NHW[pattern_BP[:, piece]].flatten(1))
    return pixels_BX.view(len(pieces_BP3), 1, *canvas)


def shift(images_BHW: Tensor, max_pixels: int, generator: torch.Generator | None = None) -> Tensor:
    """Move each digit by up to `max_pixels` in each direction; return pixels_B1HW, uint8.

    Pixels from outside the photo are black.

    generator: as for `compose`.
    """
    count, height, width = images_BHW.shape
    device, most = images_BHW.device, 2 * max_pixels
    source = device if generator is None else generator.device
    moves_2B = torch.randint(most + 1, (2, count), generator=generator, device=source)
    top_B, left_B = moves_2B.to(device, non_blocking=True)
    wide_BHW = functional.pad(images_BHW, [max_pixels] * 4)
    places_BHW = _window(top_B * (width + most) + left_B, height, width, width + most)
    return wide_BHW.flatten(1).gather(1, places_BHW.flatten(1)).view(count, 1, height, width)


def rotate(
    images_BHW: Tensor, max_degrees: float, generator: torch.Generator | None = None
) -> Tensor:
    """Rotate each digit about its centre by up to `max_degrees` in either direction.

    Pixels from outside the photo are black.

    images_BHW: uint8, of any height and width; the result has the same shape (bilinear).
    generator: as for `compose`.
    """
    count, height, width = images_BHW.shape
    device = images_BHW.device
    source = device if generator is None else generator.device
    turn_B = 2 * torch.rand(count, generator=generator, device=source) - 1
    angle_B = torch.deg2rad(max_degrees * turn_B).to(device, non_blocking=True)
    cos_B, sin_B, zero_B = angle_B.cos(), angle_B.sin(), torch.zeros_like(angle_B)
    # Coordinates go from -1 to 1 along both sides, whatever the aspect ratio.
    entries_6B = [cos_B, -sin_B * height / width, zero_B, sin_B * width / height, cos_B, zero_B]
    turn_B23 = torch.stack(entries_6B, dim=1).view(count, 2, 3)
    grid_BHW2 = functional.affine_grid(turn_B23, [count, 1, height, width], align_corners=False)
    turned_B1HW = functional.grid_sample(
        images_BHW[:, None].float(), grid_BHW2, align_corners=False
    )
    return turned_B1HW[:, 0].round().to(torch.uint8)


def _window(start: Tensor, height: int, width: int, row: int) -> Tensor:
    """Return flat indices of height x width windows at `start`, in images of row length `row`."""
    rows = torch.arange(height, device=start.device)[:, None] * row
    columns = torch.arange(width, device=start.device)
    return start[..., None, None] + (rows + columns)


def _check(
    images_BHW: Tensor,
    canvas: tuple[int, int],
    clutter: int,
    clutter_size: int,
    pool_NHW: Tensor | None,
) -> None:
    if images_BHW.dtype != torch.uint8:
        raise ValueError(f"digits must be uint8, 0..255, not {images_BHW.dtype}")
    _, height, width = images_BHW.shape
    if canvas[0] < height or canvas[1] < width:
        raise ValueError(f"a canvas of {canvas} cannot hold digits of {(height, width)} pixels")
    if clutter:
        if not 0 < clutter_size <= min(height, width):
            raise ValueError(
                f"clutter_size {clutter_size}: must be 1 to {min(height, width)}, the digits' size"
            )
        pool = images_BHW if pool_NHW is None else pool_NHW
        if len(pool) < 2:
            raise ValueError("clutter needs a pool of two digits or more: pass pool_NHW")
        if pool.shape[1:] != images_BHW.shape[1:]:
            raise ValueError(
                f"the pool's digits are {tuple(pool.shape[1:])}, the batch's {(height, width)}"
            )
