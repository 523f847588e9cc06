"""Figures from what `evaluation` and `training` return; a notebook shows them with `show.figure` and alt text."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from sklearn.metrics import confusion_matrix

PALETTE = sns.color_palette("colorblind")
sns.set_theme(style="whitegrid", palette=PALETTE, font_scale=1.05)


def learning_curves(histories, title):
    """Return a figure of {name: {curve: [value per epoch]}}; a dot marks the epoch of the best validation accuracy."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for colour, (name, history) in zip(PALETTE, histories.items(), strict=False):
        epochs = np.arange(1, len(history["loss"]) + 1)
        for axis, curve, scale in ((axes[0], "accuracy", 100), (axes[1], "loss", 1)):
            axis.plot(epochs, scale * np.array(history[curve]), "--", color=colour)
            axis.plot(epochs, scale * np.array(history[f"val_{curve}"]), "-", color=colour, label=name)
        best = int(np.argmax(history["val_accuracy"]))
        axes[0].plot(epochs[best], 100 * history["val_accuracy"][best], "o", color=colour)
    for axis, name, unit in zip(axes, ("accuracy", "loss"), ("accuracy (%)", "cross-entropy (nats)"), strict=True):
        axis.set(xlabel="epoch", ylabel=unit, title=name)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend(fontsize="small")
    fig.suptitle(f"{title} (dashed: training, solid: validation)")
    return fig


def confusion(probabilities, labels, class_names, title):
    """Return a heat map of the test images of each true class (rows) by predicted class, in per cent of the row."""
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(len(class_names)), normalize="true")
    fig, axis = plt.subplots(figsize=(6.4, 5.6), layout="constrained")
    sns.heatmap(100 * matrix, annot=len(class_names) <= 20, fmt=".0f", cmap="cividis", cbar=False, square=True,
                xticklabels=class_names, yticklabels=class_names, annot_kws={"size": 9}, ax=axis)
    axis.set(xlabel="predicted class", ylabel="true class", title=title)
    axis.tick_params(axis="x", rotation=45)
    return fig


def images(rows, titles, title, columns=10):
    """Return a grid of images (height, width, channels), each under its short title."""
    columns = min(columns, len(rows))
    lines = -(-len(rows) // columns)
    size = (1.1 * columns, 1.3 * lines + 0.4)
    fig, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, label in zip(axes.flat, rows, titles, strict=False):
        axis.imshow(np.squeeze(image), cmap="gray" if image.shape[-1] == 1 else None)
        axis.set_title(label, fontsize=9)
    fig.suptitle(title)
    return fig
