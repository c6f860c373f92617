"""A small matrix as a picture with its numbers."""

import numpy as np


def draw_heat_map(axes, values, row_names, column_names, title, *, limits=(0.0, 1.0), cmap="Blues"):
    """Draws `values` `[rows, columns]` as coloured cells with two digits of their numbers; NaN is an empty cell."""
    if len(row_names) != len(values):
        raise ValueError(f"`names` must be one for each of {len(values)} rows; received: names={list(row_names)}")
    axes.imshow(values, cmap=cmap, vmin=limits[0], vmax=limits[1])
    for row, column in np.argwhere(~np.isnan(values)):
        value = values[row, column]
        color = "white" if abs(value) > 0.6 * limits[1] else "black"
        axes.text(column, row, f"{value:.2g}", ha="center", va="center", color=color, fontsize="small")
    axes.set_xticks(range(len(column_names)), column_names)
    axes.set_yticks(range(len(row_names)), row_names)
    axes.set_title(title)
