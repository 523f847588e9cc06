"""The page of what `invoke bench` measured, as Markdown with figures, for `site`. Nothing here imports Keras."""

import base64
import html
import io

from lib import bench, decks

OPENING = """# How fast

> *What do the caches, the precision and the pipeline save or cost, and how far is the machine from its limit?*

Every ratio is measured in **pairs**: both ways in turn, in the same run, so that whatever slows the machine meets both.
The number is the median of the pairs' ratios, the range their smallest and largest. `invoke bench` repeats it.
"""
NOTES = {
    "frozen_phase": "The first phase of [notebook 07](07_mobilenetv2.ipynb), {network}, on {images:,} images. "
                    "Compilation and validation count, and on our side the one pass that fills the empty cache; of the "
                    "plain way {epochs_run[0]} epochs were run, and the others count as the last of them.",
    "fine_tune": "Its second phase, {epochs} epochs on {images:,} images, of which {epochs_run[0]} were run each way.",
    "data_load": "Imports are not counted. Ours is mapped into memory, not read: "
                 "with every pixel looked at once the ratio is {with_every_image_read[median_ratio]:.1f}.",
    "bfloat16": "One step of each network together, so the slowest decides; each by itself: {each}.",
    "determinism": "The same seed gives the same weights, bit by bit, because every notebook asks TensorFlow for "
                   "deterministic operations. What that costs cannot be told from nothing where the range holds 1. "
                   "Each network by itself: {each}.",
    "xla": "Keras compiles with XLA by itself, but not where operations must be deterministic, as in every notebook. "
           "Measured without that demand; above 1 XLA is slower. Each network by itself: {each}.",
    "pipeline_overhead": "[Notebook 02](02_baseline_cnn.ipynb) in its smallest size, from the command to the page, "
                         "takes {overhead_seconds} s more than its cells alone: a longer notebook, a smaller share.",
}  # fmt: skip


def report(results):
    """Return the page of all results as Markdown, with its figures as PNG."""
    table = bench.markdown(bench.COLUMNS, bench.rows(results, results))
    alt = "Each ratio with its range on a logarithmic axis; diamonds are the marks."
    parts = [OPENING, table]
    if saving := {name: result for name, result in results.items() if name not in ("limit", "growth")}:
        parts.append(_figure(_draw_ratios, saving, alt))
    for name, note in NOTES.items():
        if name in results:
            networks = results[name].get("networks", {}).items()
            each = "; ".join(f"{_title(model)}: {bench.one_line(found)}" for model, found in networks)
            text = note.format(each=each, **results[name])
            parts.append(f"**{bench.MEASUREMENTS[name].title}.** {text}{_parity(results[name])}\n")
    sections = {"limit": _limit, "growth": _growth, "prediction": _prediction}
    return "\n".join(parts + [section(results[name]) for name, section in sections.items() if name in results])


def _parity(result):
    if "parity" not in result:
        return ""
    found = result["parity"]
    reached = [f"{', '.join(f'{100 * value:.1f}' for value in values)} % in {precision}"
               for precision, values in found["accuracy"].items()]
    return (f" And accuracy: after {found['epochs']} epochs on {found['images']:,} images, with three seeds, A1 "
            f"classifies of the validation images {' and '.join(reached)}.")


def _limit(result):
    lines = [[name, f"{model['flops'] / 1e6:,.0f}", model["batch_size"],
              *[_share(model[kind]) for kind in ("training", "inference")]] for name, model in result["models"].items()]
    return f"""## The share of the limit

The same machine reaches {result['product_gflops']:,.0f} GFLOP/s in the product of two large matrices, in
{result['precision']} like the models. The share is what a model attains of it, the median of pairs, each with a product
of its own beside it; one training step counts as three forward passes, and only convolutions and dense layers are
counted.

{_figure(_draw_limit, result, "Bars: the share of the matrix product's FLOP/s that each model attains.")}
{bench.markdown(("model", "MFLOP", "batch", "GFLOP/s, training", "GFLOP/s, inference"), lines)}"""


def _title(name):
    """A model's name, with its title if it is a deck's row."""
    return f"{name}, {decks.title(name)}" if decks.title(name) != name else name


def _share(found):
    share, low, high = (f"{100 * found[key]:.0f}" for key in ("median_ratio", "low", "high"))
    return f"{found['gflops']:,.0f}, {share} % [{low}–{high}]"


def _growth(result):
    lines = [[name, series["model"], *[", ".join(map(_digits, series[what]))
                                       for what in ("values", "seconds", "megabytes")],
              f"{series['seconds_exponent']:.2f} / {series['memory_exponent']:.2f}"]
             for name, series in result["series"].items()]
    columns = ("what grows", "model", "values", "time (s)", "memory (MB)", "exponents")
    return f"""## How time and memory grow

One epoch of training, and the process's peak of memory beyond that of one which has only started Keras, over the
number of images, their resolution in pixels and the batch size. The exponents of time and memory are the slopes of
straight lines where both axes are logarithmic: 1 grows in proportion, 2 with the square, 0 not at all. Where a curve
bends, the line is only its mean: what is needed at any size comes first, and what grows takes over later.

{_figure(_draw_growth, result, "Six curves on logarithmic axes: seconds and megabytes over each of the three sizes.")}
{bench.markdown(columns, lines)}"""


def _digits(value, _=None):
    """Three digits of a number, or all of a large one; matplotlib gives a place as well."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _prediction(result):
    kinds = ("predict_ms", "batch_1_ms", "batch_256_ms")
    lines = [[_title(name), *[f"{model[kind]['median']:.2f} / {model[kind]['p95']:.2f}" for kind in kinds],
              bench.number(model["median_ratio"])] for name, model in result["models"].items()]
    columns = ("model", "`predict`, 1 image", "compiled, 1 image", "256 images", "ratio")
    return f"""## The time of a prediction

Milliseconds, median / 95th percentile, with the result on the host. Deck D timed `model.predict` on one image, which
prepares a whole loop over data for it.

{bench.markdown(columns, lines)}"""


# ---------------------------------------------------------------------------------------------------------- figures


def _figure(draw, result, alt):
    """Draw into a new figure; return it as the HTML of the site's figures, in one line of Markdown."""
    import seaborn as sns
    from matplotlib.figure import Figure

    with sns.axes_style("whitegrid"), sns.plotting_context("notebook", font_scale=0.85):
        figure = Figure(figsize=(6.8, 4), layout="constrained")
        draw(figure, result, sns.color_palette("colorblind"))
        figure.savefig(buffer := io.BytesIO(), format="png", dpi=100)
    address = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    kind = "figure wide" if figure.get_figwidth() > 6 else "figure"  # a narrow one is legible on a phone as it is
    return f'<div class="scroll" tabindex="0"><img class="{kind}" src="{address}" alt="{html.escape(alt)}"></div>\n'


def _draw_ratios(figure, results, palette):
    axis = figure.subplots()
    found = results.values()
    axis.axvline(1, color="grey", linewidth=1)
    axis.hlines(range(len(found)), [result["low"] for result in found], [result["high"] for result in found],
                color=palette[0], linewidth=3)
    medians = [result["median_ratio"] for result in found]
    axis.plot(medians, range(len(found)), "o", color=palette[0], label="median and range")
    marks = [float(result["mark"].split()[-1]) if result["mark"] else None for result in found]
    axis.plot(marks, range(len(found)), "D", color=palette[1], label="mark")
    for place, name in enumerate(results):
        _above(axis, bench.MEASUREMENTS[name].title, place - 0.4)
    figure.set_size_inches(5, 0.55 * len(found) + 1.4)
    axis.set(yticks=[], ylim=(-0.8, len(found) - 0.5), xlabel="ratio", xscale="log", title="What is saved or lost")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=2)


def _above(axis, name, place):
    """Write a name above its line, not beside it, so that the figure is narrow enough for a phone."""
    axis.annotate(name, (0.02, place), xycoords=axis.get_yaxis_transform(), va="center",
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})


def _draw_limit(figure, result, palette):
    axis, names = figure.subplots(), list(result["models"])
    for offset, kind, colour in ((-0.12, "training", palette[0]), (0.12, "inference", palette[1])):
        shares = [100 * model[kind]["median_ratio"] for model in result["models"].values()]
        axis.barh([place + offset for place in range(len(names))], shares, 0.24, color=colour, label=kind)
    for place, name in enumerate(names):
        _above(axis, name, place - 0.47)
    figure.set_size_inches(5, 0.55 * len(names) + 1.4)
    axis.set(yticks=[], ylim=(len(names) - 0.5, -0.9), xlabel="share of the matrix product's FLOP/s (%)",
             title="How near to the limit")
    figure.legend(loc="outside lower center", ncols=2)


def _draw_growth(figure, result, palette):
    from matplotlib import ticker

    axes = figure.subplots(2, len(result["series"]), sharex="col", squeeze=False)
    figure.set_figheight(4.6)
    for column, (name, series) in zip(axes.T, result["series"].items(), strict=True):
        for axis, what, colour in zip(column, ("seconds", "megabytes"), palette, strict=False):
            axis.plot(series["values"], series[what], "o-", color=colour)
            axis.set(xscale="log", yscale="log")
            axis.xaxis.set(ticks=series["values"], major_formatter="{x:,g}", minor_locator=ticker.NullLocator())
            axis.yaxis.set(ticks=series[what], major_formatter=_digits, minor_locator=ticker.NullLocator())
        column[1].set_xlabel(f"{name} (px)" if name == "resolution" else name)
        column[1].tick_params(axis="x", rotation=45)
    for axis, label in zip(axes[:, 0], ("time (s)", "memory (MB)"), strict=True):
        axis.set_ylabel(label)
    figure.suptitle("Time and memory of one epoch", x=0, ha="left")

