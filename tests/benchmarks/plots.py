"""The plots of docs/explanation/performance.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from tests.benchmarks.turns import DIRECT, PACED, STREAM, UNPOD


def latency(found: dict[str, Any], file: Path) -> None:
    """Draw latency against sessions, paced."""
    figure = Figure(figsize=(8, 4), dpi=110, layout="constrained")
    for axes, name, title in zip(
        figure.subplots(1, 2), ("first_delta", "reply_end"), ("first delta", "the reply's end"), strict=True
    ):
        for system, colour in ((DIRECT, "tab:grey"), (UNPOD, "tab:blue")):
            rows = [
                row
                for row in found["turns"]["rows"]
                if (row["system"], row["manner"], row["pieces"], row["sync"]) == (system, PACED, STREAM, "1s")
            ]
            sessions = [row["sessions"] for row in rows]
            axes.plot(sessions, [row[f"{name}_p50_ms"] for row in rows], "o-", color=colour, label=f"{system} p50")
            axes.plot(sessions, [row[f"{name}_p99_ms"] for row in rows], "x--", color=colour, label=f"{system} p99")
        axes.set(xscale="log", xlabel="sessions", ylabel="ms", ylim=(0, None), title=title)
        _plain(axes)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=4, loc="outside lower center")
    figure.savefig(file, metadata={"Software": None})


def cost(found: dict[str, Any], file: Path) -> None:
    """Draw the processor time of a turn, by process, against the number of sessions that are attached."""
    figure = Figure(figsize=(6, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    rows = found["scale"]["attached"]
    for name in ("runner", "bridge", "nats"):
        spent = [row["cpu_ms_per_turn"][name] for row in rows]
        axes.plot([row["sessions"] for row in rows], spent, "o-", label=name)
    axes.set(xscale="log", xlabel="sessions attached", ylabel="CPU per turn, ms", ylim=(0, None))
    _plain(axes)
    axes.legend(fontsize=8)
    figure.savefig(file, metadata={"Software": None})


def _plain(axes: Axes) -> None:
    """Have a logarithmic axis name its numbers as people write them."""
    axes.grid(visible=True, alpha=0.3)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
