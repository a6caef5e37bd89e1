"""A picture of what ``sealserve bench`` measured, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sealserve.client.bench import Outcome
from sealserve.errors import InputError, MachineError

_TICKS = (0.5, 0.9, 0.99, 0.999, 0.9999)
FORMATS = (".svg", ".png", ".pdf")


def check_plot(path: Path) -> None:
    """To be called before a measurement that is to be drawn.

    :raises InputError: no picture can be written under this name. :raises MachineError: matplotlib is not installed.
    """
    if path.suffix not in FORMATS:
        raise InputError(f"{path} is no name for a plot", hint=f"Let it end in {', '.join(FORMATS)}.")
    if not path.parent.is_dir():
        raise InputError(f"the directory of {path} does not exist", hint="Make it first.")
    try:
        import matplotlib as mpl

        mpl.use("svg")
    except ImportError as error:
        raise MachineError("plots need matplotlib", hint="Install it: pip install 'sealserve[plot]'") from error


def plot(outcomes: Sequence[Outcome], path: Path, title: str) -> None:
    """Draw latency by percentile, one line for each measurement, and latency against throughput.

    :raises InputError: the file cannot be written.
    """
    from matplotlib import pyplot

    outcomes = [outcome for outcome in outcomes if outcome.latencies.count]
    figure, (by_percentile, by_throughput) = pyplot.subplots(1, 2, figsize=(12, 5))
    figure.suptitle(title)
    for outcome in outcomes:
        points = [(share, seconds) for share, seconds in outcome.latencies.distribution() if share < 1]
        points.append((1 - 0.5 / max(outcome.latencies.count, 1), outcome.latencies.most))
        xs, ys = [1 / (1 - share) for share, _ in points], [seconds * 1000 for _, seconds in points]
        by_percentile.step(xs, ys, where="post", label=outcome.label)
    _label(by_percentile, "percentile", "latency, ms")
    by_percentile.set_xscale("log")
    by_percentile.set_xticks([1 / (1 - share) for share in _TICKS], [f"{share * 100:g}" for share in _TICKS])
    by_percentile.minorticks_off()
    if outcomes:
        by_percentile.legend()
    rates = [outcome.per_second for outcome in outcomes]
    for percent in (50.0, 99.0):
        values = [outcome.latencies.percentile(percent) * 1000 for outcome in outcomes]
        by_throughput.plot(rates, values, marker="o", label=f"p{percent:g}")
    for outcome, rate in zip(outcomes, rates, strict=True):
        place: Any = (rate, outcome.latencies.percentile(50) * 1000)
        by_throughput.annotate(outcome.label, place, textcoords="offset points", xytext=(4, 6), fontsize=8)
    _label(by_throughput, "answers a second", "latency, ms")
    by_throughput.legend()
    try:
        figure.savefig(path, bbox_inches="tight")
    except OSError as error:
        raise InputError(f"{path} cannot be written", hint="Choose another place for the plot.") from error
    finally:
        pyplot.close(figure)


def _label(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
