"""The loop that averages the cells of boxes anywhere in a photo, compiled by numba. Only
compiled.py imports it.

A pixel counts by the fraction of it that lies in a cell. The lines of a row of cells are summed
first, each by its fraction, then the columns of each cell.
"""

from __future__ import annotations

import numpy as np

from stacked_ram.ops.cell_loop import WIDEST, add_lines, compiled, u16, u64

f32 = np.float32


@compiled
def read_boxes(some, pixels, shape, starts_RK2, sides_RK2, sizes_R2, scales_C, means_C, averages):
    """Write normalised averages, R x K x h x w x C, float32, of some rows: the sum of a cell times
    the scale of its channel and 1 / the pixels of a cell, minus the mean times the fraction of the
    cell that lies in the photo.

    some: from the first number to before the second. pixels (of shape B, C, H, W) are passed flat.
    starts_RK2, sides_RK2: (x, y) of the left top corner, (width, height), in pixels, float64.
    sizes_R2: (height, width) of each row's photo.
    """
    batch, channels, tall, wide = shape
    rollouts = averages.shape[0] // batch
    boxes, down, across = averages.shape[1:4]
    lines, line = np.empty(wide, u16), np.empty(wide, f32)
    first, count = np.empty(across, u64), np.empty(across, u64)
    of_first, of_last = np.empty(across, f32), np.empty(across, f32)
    inside_x = np.empty(across, f32)
    for r in range(some[0], some[1]):
        height, width = sizes_R2[r, 0], sizes_R2[r, 1]
        for k in range(boxes):
            left, top = starts_RK2[r, k, 0], starts_RK2[r, k, 1]
            cell_x, cell_y = sides_RK2[r, k, 0] / across, sides_RK2[r, k, 1] / down
            if not np.isfinite(left + top):
                averages[r, k] = np.nan
                continue
            begin, end = wide, 0  # the columns that any cell touches
            for j in range(across):
                x0 = min(max(left + j * cell_x, 0.0), float(width))
                x1 = min(max(left + (j + 1) * cell_x, 0.0), float(width))
                at, last = int(x0), int(np.ceil(x1)) - 1
                inside_x[j] = (x1 - x0) / cell_x
                first[j], count[j] = u64(at), u64(max(last - at, 0))
                of_first[j] = min(at + 1.0, x1) - x0
                of_last[j] = x1 - last
                if x1 > x0:
                    begin, end = min(begin, at), max(end, last + 1)
            share = f32(1 / (cell_x * cell_y))
            for i in range(down):
                y0 = min(max(top + i * cell_y, 0.0), float(height))
                y1 = min(max(top + (i + 1) * cell_y, 0.0), float(height))
                if y1 <= y0 or end <= begin:
                    averages[r, k, i] = 0
                    continue
                inside_y = f32((y1 - y0) / cell_y)
                for c in range(channels):
                    plane = (r // rollouts * channels + c) * tall
                    sum_lines(pixels, plane, wide, y0, y1, begin, end, lines, line)
                    scale, mean = scales_C[c] * share, means_C[c] * inside_y
                    sum_columns(line, first, count, of_first, of_last, averages[r, k, i, :, c])
                    for j in range(across):
                        value = averages[r, k, i, j, c]
                        averages[r, k, i, j, c] = value * scale - mean * inside_x[j]


@compiled
def sum_lines(pixels, plane, wide, y0, y1, begin, end, lines, line):
    """Write the sum of the lines from y0 to y1 into the columns `begin` to `end` of `line`."""
    at, span = u64(begin), u64(end - begin)
    y, last = int(y0), int(np.ceil(y1)) - 1
    weight = f32(min(y + 1.0, y1) - y0)
    place = u64((plane + y) * wide + begin)
    for x in range(span):
        line[at + x] = weight * f32(pixels[place + x])
    y += 1
    while y < last:
        some = min(last - y, WIDEST)
        for x in range(span):
            lines[at + x] = 0
        add_lines(pixels, u64((plane + y) * wide + begin), u64(wide), some, lines, at, span)
        for x in range(span):
            line[at + x] += f32(lines[at + x])
        y += some
    if y == last:
        weight = f32(y1 - last)
        place = u64((plane + y) * wide + begin)
        for x in range(span):
            line[at + x] += weight * f32(pixels[place + x])


@compiled
def sum_columns(line, first, count, of_first, of_last, sums):
    """Write the sum of each cell's columns."""
    for j in range(u64(len(first))):
        if of_first[j] <= 0:  # outside the photo: nothing of `line` is its
            sums[j] = 0
            continue
        at = first[j]
        total = of_first[j] * line[at]
        if count[j] > 0:
            for x in range(at + u64(1), at + count[j]):
                total += line[x]
            total += of_last[j] * line[at + count[j]]
        sums[j] = total
