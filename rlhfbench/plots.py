"""Pictures: scores against compute (`compare`), scores against the KL to the reference (`sweep`). Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .comparison import Comparison
from .errors import InputError
from .hacking import KL_LINES
from .layout import Names, spelled, unit
from .results import Result
from .statistics import MIN_INTERVAL, bootstrap_bounds, interquartile_mean
from .types import Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .sweeps import Sweep

ENDINGS = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, which people with any colour vision tell apart, without yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX"
LEGEND = 120  # characters, markers included, that a line of the legend has room for
WIDE_RATIO = 8.0  # of final compute, from which its axis shows square roots
STYLE: Any = {
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "rlhfbench",
}


def check(path: str) -> None:
    """Refuse a name or an environment that no picture can come of."""
    if Path(path).suffix.lower() not in ENDINGS:
        raise InputError(f"--plot {path}: the name must end in {', '.join(ENDINGS)}")
    if find_spec("matplotlib") is None:
        raise InputError("--plot needs matplotlib: pip install matplotlib")


@dataclass(frozen=True)
class Curves:
    """One arm's runs on a common grid of checkpoints: arrays (runs, checkpoints)."""

    x: Float
    rm: Float
    gold: Float

    @classmethod
    def of(cls, comparison: Comparison, label: str, x: str) -> Curves | None:
        """The finished runs; None where there are none. Runs with fewer checkpoints than most are left out."""
        runs = [_with_serving(r) for r in comparison.runs[label] if r.status == "done" and r.curve]
        sizes = [len(curve) for curve in runs]
        size = max(sizes, key=sizes.count, default=0)
        kept = [curve for curve in runs if len(curve) == size]
        if not kept:
            return None
        names = (x, "rm_score", "gold_score")
        x_values, rm, gold = ([[_number(point[name]) for point in curve] for curve in kept] for name in names)
        return cls(np.array(x_values), np.array(rm), np.array(gold))

    def ordered(self, name: str) -> Float:
        return self.rm if name == "rm" else self.gold


def _with_serving(run: Result) -> list[dict[str, Any]]:
    """The curve, with what serving its last point costs."""
    return [*run.curve[:-1], run.curve[-1] | {"flops": run.compute["flops"]}]


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def compare_plot(comparison: Comparison, path: Path) -> None:
    """RM score and gold against charged FLOPs, all arms: estimate with its 95 % band, and each seed."""
    arms = {
        label: c for label in comparison.labels if (c := Curves.of(comparison, label, "flops")) is not None
    }
    finals = [_final(comparison, label, "flops")[0] for label in arms]
    scale, prefix = unit(finals)
    wide = bool(finals) and max(finals) > WIDE_RATIO * min(finals)

    def panel(axes: Axes, name: str) -> None:
        for i, (label, curves) in enumerate(arms.items()):
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
            _arm(axes, comparison, label, curves, name, scale, colour, marker)
        axes.set_xlabel(f"charged compute, {prefix}FLOP{' (square-root axis)' if wide else ''}")
        if wide:
            _square_root_axis(axes, max(float(curves.x.max()) for curves in arms.values()) / scale)

    _two_panels(comparison, panel, _compare_title(comparison), path)


def _compare_title(comparison: Comparison) -> str:
    n = len(comparison.paired_seeds)
    band = ", 95 % bootstrap interval" if n >= MIN_INTERVAL else ""
    task = Path(comparison.task).name if "file" in comparison.facts else comparison.task
    return f"{task}, {comparison.policy} policy: interquartile mean{band}; thin lines: {n} seeds"


def _arm(
    axes: Axes,
    comparison: Comparison,
    label: str,
    curves: Curves,
    name: str,
    scale: float,
    colour: str,
    marker: str,
) -> None:
    """Thin lines for seeds, a line with its band, and the end point with intervals on both axes."""
    x, y = curves.x / scale, curves.ordered(name)
    for one_x, one_y in zip(x, y, strict=True):
        axes.plot(one_x, one_y, color=colour, linewidth=0.6, alpha=0.25)
    middle = interquartile_mean(x, axis=0)
    axes.plot(middle, interquartile_mean(y, axis=0), color=colour, linewidth=2.0)
    if len(y) >= MIN_INTERVAL:
        low, high = bootstrap_bounds(y.T)
        axes.fill_between(middle, low, high, color=colour, alpha=0.18, linewidth=0)
    end_x, x_error = _final(comparison, label, "flops")
    end_y, y_error = _final(comparison, label, f"{name}_score")
    axes.errorbar(
        end_x / scale,
        end_y,
        xerr=x_error / scale,
        yerr=y_error,
        color=colour,
        marker=marker,
        markersize=7,
        markeredgecolor="white",
        capsize=3,
        label=_legend_entry(label, comparison.typed.get(label, label)),
        linestyle="none",
        zorder=5,
    )


def _final(comparison: Comparison, label: str, name: str) -> tuple[float, Float]:
    """The table's estimate, and the lengths (2, 1) of its interval below and above."""
    found = comparison.summary(label, name)
    if found is None or found.estimate is None:
        return np.nan, np.zeros((2, 1))
    low, high = (found.estimate if end is None else end for end in (found.low, found.high))
    return found.estimate, np.maximum([[found.estimate - low], [high - found.estimate]], 0.0)


def _two_panels(comparison: Comparison, panel: Callable[[Axes, str], None], title: str, path: Path) -> None:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        panel(left, "rm")
        panel(right, "gold")
        called = Names.of(comparison.gold, comparison.reward)
        units = {"judge": "reference sd", "verifier": "share of replies"}
        scores = (
            (called.score, "reference sd" if comparison.reward == "model" else "as given"),
            (called.gold_score, units.get(comparison.gold, "units of the task")),
        )
        for axes, name, (score, of) in zip((left, right), ("rm", "gold"), scores, strict=True):
            axes.set_title(
                score + (" (what is optimised)" if name == "rm" else " (what is wanted)"), fontsize=11
            )
            axes.set_ylabel(f"{score}, {of}")
            if comparison.one_scale(f"{name}_score"):
                _reference_line(axes, _reference(comparison, f"{name}_score"))
        _legend(figure, left)
        figure.suptitle(title.replace("$", r"\$"), fontsize=11)
        figure.savefig(path, dpi=150, format=path.suffix.lower().removeprefix("."), metadata=_metadata(path))


def _reference_line(axes: Axes, level: float) -> None:
    axes.axhline(level, color="#707070", linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        "reference",
        (1.0, level),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color="#707070",
    )


def _metadata(path: Path) -> dict[str, Any]:
    return {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower(), {})


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        texts = [label.replace("$", r"\$") for label in labels]
        columns = min(len(handles), 6, max(LEGEND // max(map(len, labels)), 1))
        figure.legend(handles, texts, loc="outside lower center", ncols=columns)


def _legend_entry(label: str, typed: str) -> str:
    text = spelled(label, typed)
    return _shortened(f"{label}: {text}" if text else label)


def _shortened(text: str) -> str:
    """A text that a legend has room for."""
    return text if len(text) <= LEGEND // 2 else f"{text[: LEGEND // 2 - 1]}…"


def _reference(comparison: Comparison, name: str) -> float:
    values = comparison.references(comparison.labels[0], name)
    return float(np.mean(values)) if len(values) else 0.0


def sweep_plot(sweep: Sweep, path: Path) -> None:
    """RM score and gold against the KL to the reference as training goes on, one line per beta."""
    import matplotlib

    comparison = sweep.comparison
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(sweep.betas)))
    found = [Curves.of(comparison, label, "kl") for label in comparison.labels]
    arms = [(b, c, s) for b, c, s in zip(sweep.betas, found, shades, strict=True) if c is not None]

    def panel(axes: Axes, name: str) -> None:
        for i, (beta, curves, shade) in enumerate(arms):
            _path(axes, f"beta {beta:g}", curves, name, shade, MARKERS[i % len(MARKERS)])
        _kl_axis(axes, [float(np.nanmax(curves.x)) for _, curves, _ in arms])

    seeds = len(comparison.seeds)
    task = Path(comparison.task).name if "file" in comparison.facts else comparison.task
    wanted = Names.of(comparison.gold, comparison.reward).gold
    first = comparison.labels[0]
    typed = spelled(first, comparison.typed.get(first, first))
    title = f"{sweep.algorithm} on {task}: mean of {seeds} seeds (thin: each); filled: end, star: peak of {wanted}"
    more = f"\n{_shortened(f'beta {sweep.betas[0]:g} is {typed}')}" if typed else ""
    _two_panels(comparison, panel, title + more, path)


def _path(axes: Axes, label: str, curves: Curves, name: str, colour: Sequence[float], marker: str) -> None:
    """A line from the reference to the end of training: dots: checkpoints, marker: the end, star: gold's peak."""
    y = curves.ordered(name)
    for one_x, one_y in zip(curves.x, y, strict=True):
        axes.plot(one_x, one_y, color=colour, linewidth=0.6, alpha=0.3)
    middle, height = curves.x.mean(axis=0), y.mean(axis=0)
    axes.plot(middle, height, color=colour, linewidth=1.8, marker=".", markersize=4)
    axes.plot(
        middle[-1:],
        height[-1:],
        color=colour,
        marker=marker,
        markersize=8,
        markeredgecolor="white",
        linestyle="none",
        label=label,
        zorder=6,
    )
    gold = curves.gold.mean(axis=0)
    if np.isfinite(gold).any():
        peak = int(np.nanargmax(gold))
        axes.plot(
            middle[peak],
            height[peak],
            color=colour,
            marker="*",
            markersize=16,
            markeredgecolor="black",
            zorder=5,
        )


def _square_root_axis(axes: Axes, top: float) -> None:
    """From 0 to a little above `top`, with round ticks that leave each other room."""
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0.0)), np.square))
    axes.set_xlim(0.0, 1.08 * top)
    power = int(np.ceil(np.log10(top)))
    round_ones = [m * 10.0**p for p in range(power, power - 4, -1) for m in (5, 2, 1)]
    ticks: list[float] = []
    for tick in [t for t in round_ones if t <= 1.08 * top]:
        if not ticks or np.sqrt(ticks[-1]) - np.sqrt(tick) >= 0.06 * np.sqrt(top) <= np.sqrt(tick):
            ticks.append(tick)
    axes.set_xticks([0.0, *ticks], [f"{t:g}" for t in (0.0, *ticks)])


def _kl_axis(axes: Axes, largest: Sequence[float]) -> None:
    """Square roots of KL, as it grows with the square of the way from the reference; lines where to worry."""
    top = max([*largest, 1.0])
    _square_root_axis(axes, top)
    axes.set_xlabel("KL to the reference, nats a reply (square-root axis)")
    for line in KL_LINES:
        if line <= top:
            axes.axvline(line, color="#B22222", linewidth=1.0, linestyle=":", zorder=1)
            axes.annotate(
                f"KL {line:g}",
                (line, 0.0),
                xycoords=("data", "axes fraction"),
                xytext=(3, 4),
                textcoords="offset points",
                fontsize=8,
                color="#B22222",
            )
