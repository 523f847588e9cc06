"""Figures from what `evaluation` and `training` return; a notebook shows them with `show.figure` and alt text."""

import itertools

from lib import embedding, evaluation, gradcam

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.ticker import LogLocator, NullLocator
from PIL import Image
from sklearn.metrics import confusion_matrix

PALETTE = sns.color_palette("colorblind")
READABLE = 20  # classes whose names have room in a figure
sns.set_theme(style="whitegrid", palette=PALETTE, font_scale=1.05)
plt.rcParams["text.parse_math"] = False  # a class may be called $x
plt.rcParams["axes.titlelocation"] = "left"  # on a phone, which shows the left part of a wide figure first


def learning_curves(histories, title):
    """Return a figure of {name: {curve: [value per epoch]}}; a dot marks the epoch of the best validation accuracy."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    _curves(axes, histories)
    axes[0].legend(fontsize="small")
    fig.suptitle(f"{title} (dashed: training, solid: validation)", x=0, ha="left")
    return fig


def _curves(axes, histories):
    for colour, (name, history) in zip(itertools.cycle(PALETTE), histories.items(), strict=False):
        epochs = np.arange(1, len(history["loss"]) + 1)
        style = {"color": colour}
        if len(epochs) == 1:  # one epoch makes no line: a ring for training, a dot for validation
            style |= {"marker": ".", "markersize": 12}
        for axis, curve, scale in ((axes[0], "accuracy", 100), (axes[1], "loss", 1)):
            axis.plot(epochs, scale * np.array(history[curve]), "--", markerfacecolor="none", **style)
            axis.plot(epochs, scale * np.array(history[f"val_{curve}"]), "-", label=name, **style)
        best = int(np.argmax(history["val_accuracy"]))
        axes[0].plot(epochs[best], 100 * history["val_accuracy"][best], "o", color=colour)
    for axis, name, unit in zip(axes, ("accuracy", "loss"), ("accuracy (%)", "cross-entropy (nats)"), strict=True):
        axis.set(xlabel="epoch", ylabel=unit, title=name)
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def _matrix(axis, probabilities, labels, class_names):
    """Heat map of the test images of each true class (rows) by predicted class, in per cent of the row."""
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(len(class_names)), normalize="true")
    readable = len(class_names) <= READABLE
    names, size = class_names if readable else False, _name_size(class_names)
    sns.heatmap(100 * matrix, annot=readable, fmt=".0f", cmap="cividis", cbar=False, square=True,
                xticklabels=names, yticklabels=names, annot_kws={"size": 0.9 * size}, ax=axis)
    axis.set(xlabel="predicted class", ylabel="true class", title="Confusion (% of true class)")
    axis.tick_params("x", rotation=90 if max(map(len, class_names)) > 1 else 0, labelsize=size)
    axis.tick_params("y", rotation=0, labelsize=size)


def _name_size(classes):
    return min(10, 140 / len(classes))  # points at which READABLE names in half a dashboard keep apart


def dashboard(run, class_names, title):
    """Return one figure of all that a test says of a `training.Run`.

    Learning curves with the best epoch, precision, recall and F1 per class (of many, the lowest), confusion matrix, the
    ten most confused pairs, and accuracy against confidence, above how sure right and wrong answers are.
    """
    fig = plt.figure(figsize=(11, 13.5), layout="constrained")
    curves, middle, lower = fig.subfigures(3, 1, height_ratios=[1, 1.4, 1.25])
    _curves(curves.subplots(1, 2), {"": run.history})
    scores = evaluation.class_report(run.probabilities, run.labels, class_names)
    shown = scores if len(scores) <= READABLE else scores.nsmallest(READABLE, "F1")
    matrix, classes = middle.subplots(1, 2)
    _matrix(matrix, run.probabilities, run.labels, class_names)
    places = np.arange(len(shown))
    for column, marker, colour in zip(("precision", "recall", "F1"), "osD", PALETTE, strict=False):
        classes.plot(shown[column], places, marker, color=colour, label=column)
    heading = "Each class" if shown is scores else f"The {READABLE} classes of the lowest F1"
    classes.set(yticks=places, yticklabels=shown["class"], xlabel="score", title=heading)
    classes.tick_params("y", labelsize=_name_size(shown))
    classes.invert_yaxis()
    classes.legend(fontsize="small")
    left, right = lower.subfigures(1, 2)
    pairs = left.subplots()
    confused = evaluation.confused_pairs(run.probabilities, run.labels, class_names)
    pairs.barh(confused["true"] + " → " + confused["predicted"], confused["images"], color=PALETTE[0])
    pairs.set(xlabel="test images", ylabel="true → predicted", title="Most confused pairs")
    pairs.invert_yaxis()
    _calibration(right.subplots(2, 1, sharex=True, height_ratios=[1.7, 1]), run)
    fig.suptitle(f"{title} (curves: dashed training, solid validation)", x=0, ha="left")
    return fig


def _calibration(axes, run):
    """Accuracy against confidence with the expected calibration error (Guo et al. 2017), and both kinds of answers."""
    bins, error = evaluation.calibration(run.probabilities, run.labels)
    mended = run.record.get("calibration")
    error = mended["ece"] if mended else error  # of the probabilities before they were rounded to be stored
    more = f",\n{100 * mended['ece_scaled']:.1f} at temperature {mended['temperature']:.2f}" if mended else ""
    axes[0].plot([0, 100], [0, 100], "--", color="grey", label="calibrated")
    axes[0].plot(100 * bins["confidence"], 100 * bins["accuracy"], "o-", color=PALETTE[0], label="measured")
    axes[0].set(ylabel="accuracy (%)", title=f"Calibration: {100 * error:.1f} points off{more}")
    axes[0].legend(fontsize="small")
    confidence, hits = 100 * run.probabilities.max(axis=1), run.probabilities.argmax(axis=1) == run.labels
    for kind, chosen, colour in (("right answers", hits, PALETTE[0]), ("wrong answers", ~hits, PALETTE[1])):
        counts, edges = np.histogram(confidence[chosen], 15, (0, 100))
        axes[1].stairs(100 * counts / max(1, chosen.sum()), edges, color=colour, linewidth=2, label=kind)
    axes[1].set(xlabel="confidence (%)", ylabel="share (%)")
    axes[1].legend(fontsize="small")


def errors(run, images_, class_names, title, count=20):
    """Return a grid of the test images (n, height, width, channels) of whose wrong class a `Run` was surest."""
    predicted, confidence = run.probabilities.argmax(axis=1), run.probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != run.labels)
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    titles = [f"{class_names[run.labels[i]]}\n→ {class_names[predicted[i]]}\n{confidence[i]:.0%}" for i in surest]
    return images(images_[surest], titles, f"{title}: surest errors (true → predicted)")


def accuracy_against_cost(points, cost, front):
    """Return a figure of accuracy (%) over a cost, cheaper to the left; a line joins and names the rows of `front`.

    `points` is a DataFrame with the columns experiment, accuracy, low, high, pretrained and the cost's.
    """
    fig, axis = plt.subplots(figsize=(4.8, 3.9), layout="constrained")
    for colour, (kind, rows) in zip(PALETTE, points.groupby("pretrained", sort=False), strict=False):
        axis.errorbar(rows[cost], rows["accuracy"], yerr=_lengths(rows), fmt="o", color=colour, capsize=2, label=kind)
    best = points.iloc[front]
    axis.plot(best[cost], best["accuracy"], color="0.4", zorder=0, label="no cheaper model is better")
    axis.set(xlabel=cost, ylabel="test accuracy (%)", xscale="log", title=f"Accuracy against {cost.split(' (')[0]}")
    ticks = LogLocator(subs=(1,) if np.ptp(np.log10(points[cost])) > 2 else (1, 3))
    axis.xaxis.set(major_locator=ticks, major_formatter="{x:,g}", minor_locator=NullLocator())
    fig.legend(fontsize="small", loc="outside lower center", ncols=2)
    gaps = 0.075 * np.ptp(axis.get_ylim()) * np.arange(len(best))
    heights = np.minimum.accumulate((best["accuracy"].to_numpy() - gaps)[::-1])[::-1] + gaps  # names keep apart
    for name, x, y, height in zip(best["experiment"], best[cost], best["accuracy"], heights, strict=True):
        axis.annotate(name, (x, y), (1.03, height), textcoords=axis.get_yaxis_transform(), va="center",
                      arrowprops={"arrowstyle": "-", "color": "grey", "linewidth": 0.8, "relpos": (0, 0.5)})
    return fig


def robustness(found, named):
    """Return a figure of {experiment: "robustness" of its record}: accuracy over the strength of each corruption.

    The experiments in the list `named` have colours, all others are grey.
    """
    fig, axes = plt.subplots(3, 2, figsize=(5.6, 7.4), sharex=True, sharey=True, layout="constrained")
    styles = {name: {"color": "0.85", "linewidth": 1, "zorder": 1} for name in found if name not in named}
    styles |= {name: {"color": colour, "label": name} for name, colour in zip(named, PALETTE, strict=False)}
    for name, style in styles.items():
        for axis, (kind, values) in zip(axes.flat, found[name]["accuracy"].items(), strict=False):
            axis.plot(100 * np.array([found[name]["clean"], *values]), **style)
            axis.set(title=kind, xticks=range(len(values) + 1))
    axes[1, 1].tick_params(labelbottom=True)
    axes[2, 1].axis("off")
    axes[2, 1].legend(*axes[0, 0].get_legend_handles_labels(), fontsize="small", loc="center")
    fig.supxlabel("strength (0: the image as it is)", fontsize="medium")
    fig.supylabel("accuracy (%)", fontsize="medium")
    return fig


def reported_against_measured(claims):
    """Return a figure of the decks' accuracies (%), a number or a range each, beside the measured ones.

    `claims` is a DataFrame with the columns experiment, first, last (of the range), accuracy, low, high.
    """
    fig, axis = plt.subplots(figsize=(4.8, 0.34 * len(claims) + 1.6), layout="constrained")
    places = np.arange(len(claims))
    axis.errorbar(claims["accuracy"], places, xerr=_lengths(claims), fmt="o", color=PALETTE[0], capsize=3,
                  label="measured, 95 % interval")
    axis.hlines(places, claims["first"], claims["last"], color=PALETTE[1])
    axis.plot(claims["last"], places, "D", color=PALETTE[1], label="reported")
    axis.plot(claims["first"], places, "D", color=PALETTE[1])
    axis.set(xlabel="test accuracy (%)", yticks=places, yticklabels=claims["experiment"],
             title="Reported against measured")
    axis.invert_yaxis()
    fig.legend(fontsize="small", loc="outside lower center", ncols=2)
    return fig


def _lengths(rows):
    """Lengths of the error bars below and above each accuracy."""
    return [rows["accuracy"] - rows["low"], rows["high"] - rows["accuracy"]]


def images(rows, titles, title, columns=7, width=1.1):
    """Return a grid of images (height, width, channels), each `width` inches wide under its short title.

    All in one pair of axes that counts inches: with a pair for each image, a helper of `browse` takes seconds to draw.
    """
    if not len(rows):  # a model of a few images of one's own may make no error
        fig = plt.figure(figsize=(5, 0.4))
        fig.suptitle(f"{title}: none", x=0, ha="left")
        return fig
    titles = [str(label) for label in titles]
    columns, side = min(columns, len(rows)), width - 0.08
    above = 0.04 + 0.15 * (1 + max(label.count("\n") for label in titles))
    right, bottom = width * columns, (width + above) * -(-len(rows) // columns)
    fig = plt.figure(figsize=(right, bottom + 0.3))
    axis = fig.add_axes((0, 0, 1, bottom / (bottom + 0.3)))
    for place, (image, label) in enumerate(zip(rows, titles, strict=True)):
        x, y = place % columns * width + side / 2, place // columns * (width + above) + above
        height, half = side * np.array(image.shape[:2]) / max(image.shape[:2]) / (1, 2)
        axis.imshow(np.squeeze(image), cmap="gray" if image.shape[-1] == 1 else None,
                    extent=(x - half, x + half, y + height, y))
        axis.text(x, y - 0.06, label, ha="center", fontsize=9)
    axis.set(xlim=(0, right), ylim=(bottom, 0))
    axis.axis("off")
    fig.suptitle(title, x=0, y=1, ha="left")
    return fig


def captioned(rows, titles, captions):
    """Return images (height, width, 3) side by side, each under its title and above the lines of its caption."""
    size = (4.4 * len(rows), 2.8 + 0.18 * max(map(len, captions)))
    fig, axes = plt.subplots(1, len(rows), figsize=size, squeeze=False, layout="constrained")
    for axis, image, title, lines in zip(axes.flat, rows, titles, captions, strict=True):
        axis.imshow(image)
        axis.set(xticks=[], yticks=[], title=title)
        axis.set_xlabel("\n".join(lines), fontsize=9, loc="left")
    return fig


def overlay(image, heat):
    """Return an image (height, width, 3) uint8 in grey, with a heat map (rows, columns) from 0 to 1 laid over it."""
    height, width = image.shape[:2]
    heat = np.asarray(Image.fromarray(np.float32(heat)).resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)
    grey = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    return (0.4 * grey + 0.6 * 255 * plt.colormaps["inferno"](heat)[..., :3]).astype(np.uint8)


def looks(model, pictures, answers, class_names, title):
    """Return images (n, height, width, 3) uint8 with a model's answers (n,), below each, in grey, what speaks for it.

    That is `gradcam.heatmaps` of eight rows or more. Raises StudyError where the model has no such maps.
    """
    large = np.repeat(np.repeat(pictures, 4, axis=1), 4, axis=2)  # so that the heat does not look like 32 pixels
    heat = gradcam.heatmaps(model, pictures, answers, rows=8)
    covered = [overlay(picture, each) for picture, each in zip(large, heat, strict=True)]
    titles = [class_names[answer] for answer in answers] + [""] * len(covered)
    return images([*large, *covered], titles, title, columns=len(large))


def feature_map(model, dataset, name, seed=0, count=1000):
    """Return a map of the first `count` test images by a model's features, and the `hover` of `show.figure` for it.

    Each class has a colour and a sign; no axis has a unit. The title says how many images have a nearest neighbour,
    among all features, of their own class.
    """
    split = dataset.test.take(slice(count))
    vectors = embedding.features(model, split.images)
    points = embedding.flat_map(vectors, seed)
    fig, axis = plt.subplots(figsize=(7.5, 5.6), layout="constrained")
    for label in np.unique(split.labels):
        row = points[split.labels == label]
        axis.plot(row[:, 0], row[:, 1], "osD^v<>PXp"[label % 10], color=PALETTE[label % len(PALETTE)],
                  markersize=4, alpha=0.8, label=dataset.class_names[label])
    same = embedding.agreement(vectors, split.labels)
    axis.set(xticks=[], yticks=[], title=f"{name}: {same:.0%} have a nearest neighbour of their class")
    if len(dataset.class_names) <= READABLE:
        fig.legend(fontsize="small", loc="outside right center")
    return fig, (points, split.images, np.array(dataset.class_names)[split.labels])
