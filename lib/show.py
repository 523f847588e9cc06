"""What a notebook puts on the page: figures with alt text, tables, banners and its one-sentence result.

Each output carries a role in its metadata, by which the site finds the banner, the result and the thumbnail.
"""

import base64
import html
import io
import json
import os

from lib import pictures

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.ticker import LogFormatter, LogFormatterMathtext
from PIL import Image


def figure(fig, alt, thumbnail=False, hover=None):
    """Display and close a Matplotlib figure, described in `alt`; `thumbnail` puts it on the card in the index.

    `hover` is (points (n, 2) in the only or first axes, images (n, height, width, 3), names (n,)): in the site, the
    image and the name of the point nearest to the pointer are shown. Raises ValueError without alt text.
    """
    if not alt.strip():
        raise ValueError("a figure needs alt text: say in a sentence what it shows")
    study = {"role": "thumbnail"} if thumbnail else {}
    study |= {"hover": _spots(fig, *hover)} if hover else {}
    metadata = {"image/png": {"alt": alt}} | ({"study": study} if study else {})
    display({"image/png": png(fig), "text/plain": f"[figure: {alt}]"}, raw=True, metadata=metadata)


def _spots(fig, points, images, names):
    """What a page needs to show images on hover: their sheet, and where each point is, in % of the PNG, with its name.

    It travels beside the PNG, which other viewers of notebooks show as it is; they agree on no HTML that could do this.
    As a text, for in a notebook each item of a list has a line of its own.
    """
    fig.draw_without_rendering()
    box = fig.get_tightbbox().padded(plt.rcParams["savefig.pad_inches"])  # what `png` cuts out
    places = fig.axes[0].transData.transform(points) / fig.dpi
    places = (places * (1, -1) - (box.x0, -box.y1)) / (box.width, box.height)
    spots = [[*place, str(name)] for place, name in zip(np.round(100 * places, 2).tolist(), names, strict=True)]
    sheet = base64.b64encode(pictures.sheet(images, quality=60)).decode()
    return json.dumps({"sheet": sheet, "columns": pictures.COLUMNS, "spots": spots}, ensure_ascii=False)


def widget(view, text, picture=None):
    """Display a widget to a reader in JupyterLab, and a PNG of it, described in `text`, or the text alone elsewhere.

    A widget that is stored in a notebook needs the kernel that made it: whoever opens that notebook next would find an
    error in its place. So it is left out unless JupyterLab runs this kernel, which says so in its environment.
    """
    live = view._repr_mimebundle_() if "JPY_SESSION_NAME" in os.environ else {}
    still = {"text/plain": f"[{text}]"} | ({"image/png": picture} if picture else {})
    display(live | still, raw=True, metadata={"image/png": {"alt": text}} if picture else {})


def png(fig):
    """Return a Matplotlib figure as a small PNG, and close it."""
    _write_powers_out(fig)
    fig.savefig(buffer := io.BytesIO(), format="png", dpi=100, bbox_inches="tight")
    plt.close(fig)
    small = Image.open(buffer).convert("RGB").quantize(256)  # looks the same, and keeps notebooks half as large
    small.save(buffer := io.BytesIO(), format="png", optimize=True)
    return buffer.getvalue()


class _PlainNumbers(LogFormatter):
    """Ticks of a logarithmic axis that read 1,000: `plots` has Matplotlib take no text for a formula, so not 10³."""

    def __call__(self, x, pos=None):
        return f"{x:,g}" if super().__call__(x, pos) else ""


def _write_powers_out(fig):
    for axis in (axis for axes in fig.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
            axis.set_major_formatter(_PlainNumbers())
        if isinstance(axis.get_minor_formatter(), LogFormatterMathtext):
            axis.set_minor_formatter(_PlainNumbers())


def table(frame, caption, index=False):
    """Display a pandas DataFrame with a caption; whole numbers have commas, missing values are blank cells."""
    frame = frame.fillna(np.nan)  # None would be written out
    style = {"index": index, "na_rep": "", "formatters": dict.fromkeys(frame.select_dtypes("integer"), "{:,}".format)
             | dict.fromkeys(frame.select_dtypes("bool"), {True: "yes", False: "no"}.get)}
    markup = frame.to_html(**style, border=0, justify="left", escape=True)
    opening, rest = markup.split(">", 1)
    body = f"{opening}><caption>{html.escape(caption)}</caption>{rest}"
    display({"text/html": body, "text/plain": f"{caption}\n{frame.to_string(**style)}"}, raw=True)


def banner(text):
    """Display a warning about the whole run that nobody can miss; the site repeats it at the top of the page."""
    style = "padding:.8em;border:3px solid #b30000;font-weight:bold"
    body = f'<div role="alert" style="{style}">⚠ {html.escape(text)}</div>'
    display({"text/html": body, "text/plain": f"⚠ {text}"}, raw=True, metadata={"study": {"role": "banner"}})


def caveats(images, backbone, expected, pretrained):
    """Display a banner for each thing in a run of transfer learning that is not the decks': images, weights, trunk."""
    if images.name != "cifar10":
        banner(f"This run is on {images.title}, not on CIFAR-10: its numbers say nothing about the decks.")
    if pretrained == "random":
        banner(f"{backbone} has random instead of ImageNet weights here: nothing is transferred in this run.")
    if backbone != expected:
        banner(f"The trunk is {backbone}, not {expected}: its numbers say nothing about the decks.")


def result(text):
    """Display the notebook's finding in one sentence; it stands on the notebook's card in the index."""
    display({"text/html": f"<p><strong>{html.escape(text)}</strong></p>", "text/plain": text}, raw=True,
            metadata={"study": {"role": "result"}})
