"""The loop that sums cells of pixels, compiled by numba. Only compiled.py imports it.

Two things let the compiler vectorise the inner loops: indices are unsigned, so that they need no
check for counting from the end, and each loop over pixels is a small function.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit

u16, u32, u64 = np.uint16, np.uint32, np.uint64

WIDEST = 257  # pixels of a cell's side: the sum of a column of so many fits into 16 bits
FOURS = 64  # up to this side the sum of four columns fits too


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a function when it is first called; numba caches the result on disk."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # the cache's folder cannot be written
        return njit(nogil=True)(function)


@compiled
def read_cells(
    some, pixels, shape, locations_R2, half_R2, shift_RK2, cells, scales_KC, averages, patch_size
):
    """Write averages, R x K x P x P x C. It and pixels (of shape B, C, H, W) are passed flat.
    some: the rows to read, from the first number to before the second.

    Patches lie exactly where geometry.Placing puts them. For a row of cells, each column
    is summed in 16 bits first, then the columns of each cell.
    """
    batch, channels, height, width = shape
    rows, patches = shift_RK2.shape[:2]
    most = patch_size * patch_size * cells.max()
    # one memory, viewed as single columns and as two and four columns at a time
    fours = np.empty((most + 3) // 4, np.uint64)
    columns, twos = fours.view(np.uint16), fours.view(np.uint32)
    sums, spare = np.empty(most, np.uint32), np.empty(most, np.uint32)
    area, step = u64(patch_size * patch_size), u64(channels)
    place = u64(some[0]) * u64(patches) * area * step
    for r in range(some[0], some[1]):
        photo = r // (rows // batch) * channels
        for k in range(patches):
            cell, across = cells[k], patch_size * cells[k]
            far = across + max(height, width)
            x = np.floor(locations_R2[r, 0] * half_R2[r, 0] + shift_RK2[r, k, 0])
            y = np.floor(locations_R2[r, 1] * half_R2[r, 1] + shift_RK2[r, k, 1])
            left = top = far  # fully outside the photo; kept where x or y is NaN
            if abs(x) < far and abs(y) < far:
                left, top = int(x), int(y)
            before = min(max(-left, 0), across)
            inside = u64(max(min(width - left, across), before) - before)
            for c in range(channels):
                count = u64(patch_size * across)
                for j in range((count + u64(3)) // u64(4)):
                    fours[j] = 0
                for i in range(patch_size):
                    line, end = max(top + i * cell, 0), min(top + (i + 1) * cell, height)
                    if line < end:
                        at = u64(((photo + c) * height + line) * width + left + before)
                        to = u64(i * across + before)
                        add_lines(pixels, at, u64(width), end - line, columns, to, inside)
                wide = cell
                if wide % 4 == 0 and cell <= FOURS:
                    wide, count = wide // 4, count // u64(4)
                    sum_fours(fours, sums, count)
                elif wide % 2 == 0:
                    wide, count = wide // 2, count // u64(2)
                    sum_twos(twos, sums, count)
                else:
                    for j in range(count):
                        sums[j] = columns[j]
                while wide % 2 == 0:
                    wide, count = wide // 2, count // u64(2)
                    sum_pairs(sums, spare, count)
                    sums, spare = spare, sums
                if wide > 1:
                    for j in range(area):
                        total = u32(0)
                        for i in range(u64(wide)):
                            total += sums[j * u64(wide) + i]
                        spare[j] = total
                    sums, spare = spare, sums
                scale, to = scales_KC[k, c], place + u64(c)
                for j in range(area):
                    averages[to + j * step] = np.float32(sums[j]) * scale
            place += area * step


@compiled
def add_lines(pixels, at, below, lines, columns, to, count):
    """Add lines of pixels to the columns, up to eight at a time. below: step to the next line."""
    while lines >= 8:
        at1, at2, at3 = at + below, at + u64(2) * below, at + u64(3) * below
        at4, at5 = at + u64(4) * below, at + u64(5) * below
        at6, at7 = at + u64(6) * below, at + u64(7) * below
        for j in range(count):
            a = u16(u16(pixels[at + j]) + u16(pixels[at1 + j]))
            b = u16(u16(pixels[at2 + j]) + u16(pixels[at3 + j]))
            c = u16(u16(pixels[at4 + j]) + u16(pixels[at5 + j]))
            d = u16(u16(pixels[at6 + j]) + u16(pixels[at7 + j]))
            columns[to + j] = u16(columns[to + j] + u16(u16(a + b) + u16(c + d)))
        at += u64(8) * below
        lines -= 8
    while lines >= 4:
        at1, at2, at3 = at + below, at + u64(2) * below, at + u64(3) * below
        for j in range(count):
            a = u16(u16(pixels[at + j]) + u16(pixels[at1 + j]))
            b = u16(u16(pixels[at2 + j]) + u16(pixels[at3 + j]))
            columns[to + j] = u16(columns[to + j] + u16(a + b))
        at += u64(4) * below
        lines -= 4
    while lines >= 2:
        at1 = at + below
        for j in range(count):
            columns[to + j] = u16(columns[to + j] + u16(u16(pixels[at + j]) + u16(pixels[at1 + j])))
        at += u64(2) * below
        lines -= 2
    if lines > 0:
        for j in range(count):
            columns[to + j] = u16(columns[to + j] + u16(pixels[at + j]))


@compiled
def sum_fours(fours, sums, count):
    for j in range(count):
        two = fours[j] + (fours[j] >> u64(32))
        sums[j] = u32((two + (two >> u64(16))) & u64(0xFFFF))


@compiled
def sum_twos(twos, sums, count):
    for j in range(count):
        sums[j] = u32((twos[j] & u32(0xFFFF)) + (twos[j] >> u32(16)))


@compiled
def sum_pairs(sums, halves, count):
    for j in range(count):
        halves[j] = sums[u64(2) * j] + sums[u64(2) * j + u64(1)]
