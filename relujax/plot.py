"""Pictures of the datasets that the package makes. Every function draws on an `Axes` and returns it; no global style is set."""

import numpy as np

from ._extras import extra

# a palette that colour-blind readers can tell apart (Okabe and Ito 2008), the global minimum first
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_ROWS, _LINES = 14, 64


def figure(width: float = 7.0, height: float = 4.2, *, rows: int = 1, columns: int = 1):
    """An empty figure with one axes, or an array of them, laid out so that nothing is cut off and kept out of pyplot's memory."""
    figures = extra("matplotlib.figure", "plot")
    fig = figures.Figure(figsize=(width, height), layout="constrained")
    extra("matplotlib.backends.backend_agg", "plot").FigureCanvasAgg(fig)
    return fig, fig.subplots(rows, columns)


def loss_history(dataset, ax):
    """Loss against log time of the first 64 starts, coloured by where they end, with the levels of the most frequent ends."""
    times, losses = dataset["time"].values, dataset["loss_history"].values
    shown = _most_frequent(dataset, 6)
    losses = np.where(np.isfinite(losses), losses, np.nan)
    floor = 1e-6 * np.nanmax(losses, initial=1e-300)
    drawn = [start for start in range(min(len(losses), _LINES)) if not np.all(np.isnan(losses[start]))]
    for start in drawn:
        point = int(dataset["point_of_start"].values[start])
        colour = _colour(shown, point)
        ax.plot(times, np.maximum(losses[start], floor / 100), color=colour, lw=0.7, alpha=0.6)
    for point in shown:
        level = float(dataset["loss"].values[point])
        label = f"{_label(dataset, point)}: {_shown_loss(level, 4)}"
        ax.plot([], [], color=_colour(shown, point), lw=2, label=label)
        if level > floor:
            ax.axhline(level, color=_colour(shown, point), lw=0.8, ls=":")
    ax.set(xscale="log", xlabel="gradient flow time", ylabel="loss", title=_title(dataset, f"loss along {len(drawn)} flows"))
    _logarithmic(ax, "y", losses[drawn], floor)
    if len(shown):
        ax.legend(title="ends at", fontsize=8, title_fontsize=8, loc="lower left", framealpha=0.9, edgecolor="none")
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
    ax.set(xlabel=f"percentage of {total} starts, 95 % interval", title=_title(dataset, "where the flows end"))
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
    ax.set(xlabel="Hessian eigenvalue (area: multiplicity)", title=_title(dataset, "Hessian spectra at the end points"))
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
    ax.set_title(
        f"{_title(dataset, f'neurons of {_label(dataset, point)}')},\nloss {_shown_loss(float(dataset['loss'].values[point]), 4)}"
    )
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
        title=_title(dataset, f"fit of {_label(dataset, point)}") + f", loss {float(dataset['loss'].values[point]):.4g}",
    )
    ax.legend(fontsize=8, loc="best")
    return ax


def losses_against_gradient_norm(dataset, ax):
    """End loss against end gradient norm of every start, by how its flow stopped."""
    words = dataset["flow_status"].values
    x, y = (np.maximum(dataset[name].values, 1e-17) for name in ("end_gradient_norm", "end_loss"))
    for colour, word in zip(COLOURS, np.unique(words), strict=False):
        these = words == word
        ax.plot(x[these], y[these], ".", color=colour, label=f"{word} ({these.sum()})", alpha=0.7)
    ax.set(xlabel="gradient norm at the end", ylabel="loss at the end", title=_title(dataset, "ends of all starts"))
    _logarithmic(ax, "x", x)
    _logarithmic(ax, "y", y)
    ax.legend(fontsize=8)
    return ax


def _logarithmic(ax, axis, values, floor=0.0):
    """A logarithmic axis for values that span a decade, labelled at the decades only; a linear one for others."""
    finite = values[np.isfinite(values) & (values > 0)]
    if not finite.size or np.max(finite) < 10 * max(np.min(finite), floor):
        return
    getattr(ax, f"set_{axis}scale")("log")
    getattr(ax, f"{axis}axis").set_minor_formatter(extra("matplotlib.ticker", "plot").NullFormatter())
    if floor:
        ax.set_ylim(bottom=max(floor, 0.7 * np.min(finite)))


def _title(dataset, what):
    """What a picture shows, after the setting that the dataset carries as its title."""
    return f"{dataset.attrs['title']}: {what}" if "title" in dataset.attrs else what[0].upper() + what[1:]


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


def spectrum(dataset, ax, point: int = 0):
    """Every eigenvalue of one point of a `hessian.spectrum` as a stem as high as its multiplicity, coloured by component."""
    counts = dataset["multiplicity"].values[point]
    there = counts > 0
    values, counts = dataset["eigenvalue"].values[point][there], counts[there]
    names = dataset["component"].values[point][there]
    kinds = np.array([str(name).removeprefix("extra:").split("_")[0] if "x" not in str(name) else "std ⊗ std" for name in names])
    for colour, kind in zip(COLOURS, dict.fromkeys(kinds), strict=False):
        these = kinds == kind
        ax.vlines(values[these], 0.7, counts[these], color=colour, lw=1.2, alpha=0.7)
        ax.plot(values[these], counts[these], "o", ms=4, color=colour, label=kind or None)
    negative = values < -dataset.attrs["tolerance"] * np.max(np.abs(values), initial=0.0)
    if np.any(negative):
        ax.plot(values[negative], counts[negative], "x", ms=9, color="black", label=f"negative ({counts[negative].sum()})")
    _scale_for_spectra(ax.set_xscale, values)
    ax.set(yscale="log", ylim=(0.7, None), xlabel="Hessian eigenvalue", ylabel="multiplicity")
    ax.set_title(f"Spectrum at loss {_shown_loss(float(dataset['loss'].values[point]), 6)}, {dataset.attrs['method']}")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, frameon=False)
    return ax


def spectral_density(density, ax, width: float | None = None):
    """The density of `hessian.density` on a logarithmic scale, spread out by `width`, 1 % of the range when it is None."""
    low, high = density.nodes[0], density.nodes[-1]
    width = 0.01 * (high - low or 1.0) if width is None else width
    grid = np.linspace(low - 5 * width, high + 5 * width, 2000)
    heights = density(grid, width)
    floor = 0.1 / (density.parameters * width)
    ax.fill_between(grid, floor, np.maximum(heights, floor), color=COLOURS[0], alpha=0.4, lw=0)
    ax.plot(grid, np.maximum(heights, floor), color=COLOURS[0], lw=1)
    ax.axvline(0, color="black", lw=0.6)
    ax.set(yscale="log", ylim=(floor, None), xlim=(grid[0], grid[-1]), xlabel="Hessian eigenvalue", ylabel="density")
    ax.set_title(f"{density.parameters} eigenvalues, {100 * density.mass(high=-width):.2g} % of them below {-width:.2g}")
    return ax


def spectrum_along_trajectory(times, spectra, ax):
    """Eigenvalues (time, p), ascending, against time: one line for each, the negative ones in another colour."""
    spectra, times = np.asarray(spectra), np.asarray(times)
    largest = np.max(np.abs(spectra), initial=1e-300)
    for line in spectra.T:
        ax.plot(times, line, color=COLOURS[0], lw=0.7, alpha=0.6)
        ax.plot(times, np.where(line < -1e-9 * largest, line, np.nan), color=COLOURS[1], lw=1)
    ax.axhline(0, color="black", lw=0.6)
    index = np.sum(spectra < -1e-9 * largest, axis=1)
    ax.set_yscale("symlog", linthresh=1e-2 * largest)
    ax.set(xlabel="gradient flow time", ylabel="Hessian eigenvalue")
    ax.set_title(f"Negative eigenvalues: {index[0]} at the start, {index[-1]} at the end")
    if times[0] > 0 and times[-1] > 20 * times[0]:
        ax.set_xscale("log")
    return ax


def eigenvalues_against_size(sizes, spectra, ax):
    """Eigenvalues of `hessian.symmetric_spectrum` at points of every size against the number of neurons, by component."""
    names = dict.fromkeys(part.name for parts in spectra for part in parts)
    for colour, name in zip(COLOURS * (1 + len(names) // len(COLOURS)), names, strict=False):
        lines = [[part.eigenvalues for part in parts if part.name == name] for parts in spectra]
        copies = max(len(found[0]) for found in lines if found)
        values = np.array([found[0] if found else np.full(copies, np.nan) for found in lines])
        ax.plot(sizes, values, ".-", color=colour, lw=1, ms=4, label=[name, *[None] * (copies - 1)])
    _scale_for_spectra(ax.set_yscale, np.concatenate([part.eigenvalues for parts in spectra for part in parts]))
    ax.set(xscale="log", xlabel="neurons k", ylabel="Hessian eigenvalue", title="Spectra at symmetric points")
    ax.legend(fontsize=8, frameon=False, ncols=2)
    return ax


def _scale_for_spectra(set_scale, values):
    """A logarithmic scale where all eigenvalues are positive, else one that is linear next to 0."""
    largest = np.max(np.abs(values), initial=1e-300)
    if np.all(values > 1e-9 * largest):
        set_scale("log")
    else:
        set_scale("symlog", linthresh=0.1 * largest)
