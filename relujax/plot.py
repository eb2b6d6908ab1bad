"""Pictures of the datasets that the package makes. Every function draws on an `Axes` and returns it; no global style is set."""

import numpy as np

from ._extras import extra

# a palette that colour-blind readers can tell apart (Okabe and Ito 2008), the global minimum first
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_ROWS = 14


def figure(width: float = 7.0, height: float = 4.2, *, rows: int = 1, columns: int = 1):
    """An empty figure with one axes, or an array of them, laid out so that nothing is cut off and kept out of pyplot's memory."""
    figures = extra("matplotlib.figure", "plot")
    fig = figures.Figure(figsize=(width, height), layout="constrained")
    extra("matplotlib.backends.backend_agg", "plot").FigureCanvasAgg(fig)
    return fig, fig.subplots(rows, columns)


def loss_history(dataset, ax):
    """Loss against log time, one line a start coloured by where it ends, with the levels of the most frequent ends."""
    times, losses = dataset["time"].values, dataset["loss_history"].values
    shown = _most_frequent(dataset, 6)
    floor = 1e-6 * np.nanmax(losses)
    for start in range(len(losses)):
        if np.all(np.isnan(losses[start])):
            continue
        point = int(dataset["point_of_start"].values[start])
        colour = _colour(shown, point)
        ax.plot(times, np.maximum(losses[start], floor / 100), color=colour, lw=0.7, alpha=0.6)
    for point in shown:
        level = float(dataset["loss"].values[point])
        label = f"{_label(dataset, point)}: {_shown_loss(level, 4)}"
        ax.plot([], [], color=_colour(shown, point), lw=2, label=label)
        if level > floor:
            ax.axhline(level, color=_colour(shown, point), lw=0.8, ls=":")
    ax.set(xscale="log", yscale="log", xlabel="gradient flow time", ylabel="loss", title="Loss along the flow")
    ax.set_ylim(bottom=max(floor, 0.7 * np.nanmin(losses)))
    ax.legend(title="ends at", fontsize=8, title_fontsize=8, loc="lower left", frameon=False)
    return ax


def end_points(dataset, ax):
    """Hit rates of the distinct end points with their 95 % intervals, in order of loss."""
    shown = _most_frequent(dataset, _ROWS)
    total = dataset.sizes["start"]
    rate = 100 * dataset["count"].values[shown] / total
    low, high = (100 * dataset[name].values[shown] for name in ("rate_low", "rate_high"))
    position = np.arange(len(shown))
    colours = [COLOURS[0] if dataset["name"].values[i] == "global" else COLOURS[1] for i in shown]
    bars = ax.barh(position, rate, color=colours, height=0.65)
    ax.errorbar(
        rate,
        position,
        xerr=[np.maximum(rate - low, 0), np.maximum(high - rate, 0)],
        fmt="none",
        ecolor="black",
        lw=1,
        capsize=2,
    )
    for bar, point, top in zip(bars, shown, high, strict=True):
        text = f"  loss {_shown_loss(float(dataset['loss'].values[point]), 6)}"
        ax.text(top, bar.get_y() + bar.get_height() / 2, text, va="center", fontsize=8)
    ax.set_yticks(position, [_label(dataset, point, isotropy=True) for point in shown], fontsize=8)
    ax.set(xlabel=f"percentage of {total} starts, 95 % interval", title="Where the flows end")
    ax.set_xlim(0, 1.32 * max(np.max(high, initial=0.0), 1e-9))
    ax.invert_yaxis()
    return ax


def spectra(dataset, ax):
    """Eigenvalues of the Hessian at every critical end point; the area of a dot is the multiplicity."""
    from .hessian import multiplicities

    critical = [i for i in _most_frequent(dataset, _ROWS) if np.all(np.isfinite(dataset["eigenvalues"].values[i]))]
    smallest, largest, lowest = np.inf, 0.0, np.inf
    for position, point in enumerate(critical):
        values = dataset["eigenvalues"].values[point]
        groups = multiplicities(values, 1e-7)
        x = np.array([value for value, _ in groups])
        area = np.array([count for _, count in groups])
        ax.scatter(x, np.full(len(x), position), s=12 + 8 * area, color=COLOURS[0], alpha=0.55, lw=0)
        negative = x < 0
        ax.scatter(x[negative], np.full(negative.sum(), position), marker="x", color=COLOURS[1], s=30)
        positive = x[x > 1e-9 * max(np.max(x), 1e-300)]
        smallest, largest = min(smallest, np.min(positive, initial=np.inf)), max(largest, np.max(x, initial=0.0))
        lowest = min(lowest, np.min(x))
    ax.set_yticks(range(len(critical)), [_label(dataset, point) for point in critical], fontsize=8)
    ax.set(xlabel="Hessian eigenvalue (area: multiplicity)", title="Hessian spectra at the end points")
    if not critical:
        ax.text(0.5, 0.5, "no end point is critical to 1e-8", transform=ax.transAxes, ha="center")
    elif lowest >= smallest:
        ax.set_xscale("log")
        ax.set_xlim(smallest / 1.5, 1.5 * largest)
    elif largest > 0:
        ax.set_xscale("symlog", linthresh=max(smallest / 2, 1e-6 * largest))
        ax.set_xlim(min(0.0, 1.5 * lowest) - smallest / 4, 1.5 * largest)
    ax.set_ylim(max(len(critical), 1) - 0.4, -0.6)
    return ax


def neurons_in_the_plane(dataset, ax, point: int = 0):
    """Two inputs: every neuron of one end point as the vector `|a| w`, coloured by the sign of a."""
    weights, amplitudes = dataset["weights"].values[point], dataset["amplitudes"].values[point]
    vectors = np.abs(amplitudes)[:, None] * weights
    for sign, colour, label in ((1, COLOURS[0], "a > 0"), (-1, COLOURS[1], "a < 0")):
        some = vectors[np.sign(amplitudes) == sign]
        if len(some):
            ax.quiver(
                np.zeros(len(some)), np.zeros(len(some)), some[:, 0], some[:, 1], color=colour, label=label,
                angles="xy", scale_units="xy", scale=1, width=0.004,
            )  # fmt: skip
    reach = 1.1 * np.max(np.abs(vectors), initial=1e-12)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="|a| w₁", ylabel="|a| w₂")
    ax.set_title(f"Neurons of {_label(dataset, point)}, loss {float(dataset['loss'].values[point]):.4g}")
    ax.legend(fontsize=8, loc="upper right")
    return ax


def fitted_function(dataset, inputs, targets, ax, point: int = 0):
    """One input: the data, the function of one end point, and every neuron as its kink and signed norm `a |(w, b)|`."""
    w, a = dataset["weights"].values[point][:, 0], dataset["amplitudes"].values[point]
    b = dataset["biases"].values[point] if "biases" in dataset else np.zeros_like(a)
    x = np.asarray(inputs)[:, 0]
    margin = 0.1 * (np.ptp(x) or 1.0)
    grid = np.linspace(x.min() - margin, x.max() + margin, 600)
    ax.plot(grid, np.maximum(np.outer(grid, w) + b, 0) @ a, color=COLOURS[0], label="network")
    ax.plot(x, targets, "o", color="black", ms=4, label="data")
    moving = w != 0
    kinks, strength = -b[moving] / w[moving], (a * np.hypot(w, b))[moving]
    inside = (kinks >= grid[0]) & (kinks <= grid[-1])
    twin = ax.twinx()
    twin.plot(kinks[inside], strength[inside], "*", color=COLOURS[1], alpha=0.7)
    twin.set_ylabel("a |(w, b)| at the kink", color=COLOURS[1])
    ax.set(
        xlabel="x",
        ylabel="f(x)",
        title=f"Fit of {_label(dataset, point)}, loss {float(dataset['loss'].values[point]):.4g}",
    )
    ax.legend(fontsize=8, loc="best")
    return ax


def losses_against_gradient_norm(dataset, ax):
    """End loss against end gradient norm of every start, by how its flow stopped."""
    words = dataset["flow_status"].values
    for colour, word in zip(COLOURS, np.unique(words), strict=False):
        these = words == word
        x, y = dataset["end_gradient_norm"].values[these], dataset["end_loss"].values[these]
        ax.plot(np.maximum(x, 1e-17), np.maximum(y, 1e-17), ".", color=colour, label=f"{word} ({these.sum()})", alpha=0.7)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="gradient norm at the end",
        ylabel="loss at the end",
        title="Ends of all starts",
    )
    ax.legend(fontsize=8)
    return ax


def _shown_loss(value, digits):
    return "0" if abs(value) < 1e-15 else f"{value:.{digits}g}"


def _most_frequent(dataset, number):
    counts = dataset["count"].values
    return np.sort(np.argsort(-counts, kind="stable")[:number])


def _colour(shown, point):
    places = np.flatnonzero(shown == point)
    return COLOURS[places[0] % len(COLOURS)] if places.size else "#BBBBBB"


def _label(dataset, point, *, isotropy=False):
    name, group = str(dataset["name"].values[point]), str(dataset["isotropy"].values[point])
    if name == "unnamed" and not group:
        return f"end point {point + 1}"
    return f"{name}  {group}" if isotropy and group else name
