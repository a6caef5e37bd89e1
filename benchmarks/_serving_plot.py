"""Plots of the serving benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PLOTS = (
    ("concurrency", "callers", "rate", "callers at once", "answers per second"),
    ("size", "bytes", "median", "bytes of a request", "milliseconds, median"),
)


def plot(rows: Sequence[dict[str, Any]], directory: Path) -> None:
    """Write ``serving-concurrency.svg`` and ``serving-size.svg``, as far as they were measured."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    for part, x, y, x_label, y_label in _PLOTS:
        lines: dict[str, tuple[list[float], list[float]]] = {}
        for row in rows:
            if row["part"] == part:
                line = lines.setdefault(f"{row['model']}: {row['side']}", ([], []))
                line[0].append(row[x])
                line[1].append(row[y])
        if not lines:
            continue
        figure, axes = pyplot.subplots(figsize=(8, 5))
        colours: dict[object, str] = {}
        for label, (xs, ys) in lines.items():
            # A model has one colour, with batching and without.
            batching = "batching" in label
            colour = colours.setdefault((label.split(":")[0], part == "size" and label), f"C{len(colours)}")
            axes.plot(xs, ys, marker="o", label=label, color=colour, linestyle="-" if not batching else "--")
        axes.set_xscale("log", base=2)
        if part == "size":
            axes.set_yscale("log")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(visible=True, alpha=0.3)
        if part != "size":
            axes.set_ylim(bottom=0)
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1))
        figure.savefig(directory / f"serving-{part}.svg", bbox_inches="tight")
        pyplot.close(figure)
