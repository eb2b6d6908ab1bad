"""Pictures of a flow: where neurons point, where their kinks go, how the loss falls, on which quadrics it all moves.

Functions draw arrays on an `Axes` and return it; `Animation` makes a moving picture of any of them.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ._extras import extra
from .plot import COLOURS

POSITIVE, NEGATIVE = COLOURS[1], COLOURS[0]


def function_and_kinks(hidden, amplitudes, ax, twin, *, grid, inputs, targets, references=()):
    """One input: the network's function with the data, and on a second axis every neuron's kink against its `a |(w, b)|`.

    `hidden` has the columns w and b; `twin` is `ax.twinx()`; `references` are triples (label, values on the grid, line style).
    """
    (w, b), a = np.asarray(hidden).T, np.asarray(amplitudes)
    for label, values, style in references:
        ax.plot(grid, values, style, color="#999999", lw=1.2, label=label)
    ax.plot(grid, np.maximum(np.outer(grid, w) + b, 0) @ a, color=COLOURS[2], lw=1.8, label="network")
    ax.plot(inputs, targets, "o", color="black", ms=5, label="data")
    moving = w != 0
    kinks, strength = -b[moving] / w[moving], (a * np.hypot(w, b))[moving]
    inside = (kinks >= grid[0]) & (kinks <= grid[-1])
    for own, colour, label in ((strength > 0, POSITIVE, "a > 0"), (strength < 0, NEGATIVE, "a < 0")):
        twin.scatter(*(x[inside & own] for x in (kinks, strength)), marker="*", s=36, c=colour, alpha=0.7, lw=0, label=label)
    ax.set(xlim=(grid[0], grid[-1]), xlabel="x", ylabel="f(x)")
    twin.set_ylabel("a |(w, b)| at the kink")
    return ax


def polar_neurons(hidden, amplitudes, ax, *, marked=(), offset: float = 0.0):
    """Two-dimensional hidden vectors as points in polar coordinates, coloured by the sign of a.

    `marked` are vectors whose directions are drawn as dashed rays; `offset` is added to every radius, so that the directions
    of vanishing neurons can be told apart.
    """
    hidden, amplitudes = np.asarray(hidden), np.asarray(amplitudes)
    angle, radius = np.arctan2(hidden[:, 1], hidden[:, 0]), np.linalg.norm(hidden, axis=1)
    top = max(float(radius.max()), 1e-300)
    for vector in marked:
        direction = np.arctan2(vector[1], vector[0])
        ax.plot([direction, direction], [0, top + offset], "--", color="#999999", lw=1)
    for sign, colour, label in ((1, POSITIVE, "a > 0"), (-1, NEGATIVE, "a < 0")):
        own = np.sign(amplitudes) == sign
        ax.scatter(angle[own], radius[own] + offset, s=14, color=colour, alpha=0.6, lw=0, label=label)
    ax.set_yticks([])
    ax.set_rmax(1.05 * (top + offset))
    return ax


def knots_over_time(times, knots, strengths, ax, *, samples=(), jump: float = np.inf):
    """One input: every knot against log time, its width by the size of its strength, with the samples as horizontal lines.

    A knot that moves by more than `jump` between two times went through infinity and is not joined up.
    """
    times, knots, strengths = (np.asarray(x) for x in (times, knots, strengths))
    collections = extra("matplotlib.collections", "plot")
    top = np.max(np.abs(strengths), initial=1e-300)
    for x in samples:
        ax.axhline(x, color="black", lw=0.6, ls=":")
    for unit in range(knots.shape[1]):
        path = np.stack([times, knots[:, unit]], axis=1)
        joined = np.abs(np.diff(knots[:, unit])) < jump
        segments = np.stack([path[:-1], path[1:]], axis=1)[joined]
        widths = 0.6 + 3.5 * np.abs(strengths[1:, unit][joined]) / top
        colours = np.where(strengths[1:, unit][joined] > 0, POSITIVE, NEGATIVE)
        ax.add_collection(collections.LineCollection(segments, linewidths=widths, colors=colours, alpha=0.6))
    ax.set(xscale="log", xlim=(times[times > 0][0], times[-1]), xlabel="gradient flow time", ylabel="knot −b/w")
    return ax


def loss_and_levels(times, losses, ax, *, levels=(), jumps=(), labels=None):
    """Losses against time, one line a row of `losses`, with predicted plateaus and predicted jump times as dotted lines."""
    losses = np.atleast_2d(losses)
    for index, row in enumerate(losses):
        label = None if labels is None else labels[index]
        ax.plot(times, row, color=COLOURS[index % len(COLOURS)], lw=1.4, label=label)
    for level in levels:
        ax.axhline(level, color="black", lw=0.8, ls=":")
    for jump in jumps:
        ax.axvline(jump, color="#999999", lw=0.8, ls=":")
    ax.set(xlabel="gradient flow time", ylabel="loss")
    return ax


def against_scale(scales, values, ax, *, label=None, slope=None, colour=COLOURS[0]):
    """A quantity against the scale of the initialisation, both logarithmic, with a guide of the predicted slope."""
    scales, values = np.asarray(scales, float), np.asarray(values, float)
    ax.plot(scales, values, "o-", color=colour, ms=4, lw=1, label=label)
    if slope is not None:
        smallest = np.argmin(scales)
        guide = values[smallest] * (scales / scales[smallest]) ** slope
        ax.plot(scales, guide, "--", color="#999999", lw=1, label=f"slope {slope:.3g}")
    ax.set(xscale="log", yscale="log", xlabel="scale λ of the initialisation")
    return ax


def quadric(constant, paths, ax, *, reach: float = 2.0):
    """The quadric `w₁² + w₂² − a² = c` of one neuron in 3-D, and trajectories (s, 3) of (w₁, w₂, a) on it; `ax` is 3-D."""
    angle = np.linspace(0, 2 * np.pi, 49)
    height = np.linspace(-reach, reach, 41)
    sheets = [height] if constant >= 0 else [s * np.linspace(np.sqrt(-constant), reach, 21) for s in (1, -1)]
    for a in sheets:
        radius = np.sqrt(np.maximum(constant + a**2, 0))
        surface = np.outer(radius, np.cos(angle)), np.outer(radius, np.sin(angle)), np.outer(a, np.ones_like(angle))
        ax.plot_surface(*surface, color=COLOURS[5], alpha=0.18, lw=0)
        ax.plot_wireframe(*surface, color=COLOURS[5], alpha=0.25, lw=0.4, rstride=5, cstride=4)
    for index, path in enumerate(paths):
        path = np.asarray(path)
        colour = COLOURS[(1, 2, 3, 4)[index % 4]]
        ax.plot(*path.T, color=colour, lw=2)
        ax.scatter(*path[-1], color=colour, s=30)
        ax.scatter(*path[0], color=colour, s=24, marker="s")
    ax.set(xlabel="w₁", ylabel="w₂", zlabel="a")
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.get_major_locator().set_params(nbins=5)
    return ax


class Animation:
    """A moving picture that is drawn when it is saved, as GIF or MP4: for every frame `draw(figure, frame)` on an empty figure.

    `draw` makes the axes and leaves room for their labels (`figure.subplots_adjust`); `pause` is in milliseconds.
    """

    def __init__(self, frames: Iterable[Any], draw: Callable[[Any, Any], None], *, pause: int = 80):
        self.frames, self.draw, self.pause = list(frames), draw, pause

    def save(self, path: str | Path, **options: Any) -> None:
        """Draw all frames and write them; `options` are those of `matplotlib.animation.Animation.save`."""
        # without a layout engine: to lay out every frame anew takes most of the time
        fig = extra("matplotlib.figure", "plot").Figure(figsize=(7.0, 4.2))
        extra("matplotlib.backends.backend_agg", "plot").FigureCanvasAgg(fig)

        def show(frame):
            fig.clear()
            self.draw(fig, frame)
            return []

        moving = extra("matplotlib.animation", "plot").FuncAnimation
        moving(fig, show, self.frames, init_func=list, interval=self.pause, cache_frame_data=False).save(path, **options)
