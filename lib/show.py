"""What a notebook puts on the page: figures with alt text, tables, banners and its one-sentence result.

Each output carries a role in its metadata, by which the site finds the banner, the result and the thumbnail.
"""

import html
import io

import matplotlib.pyplot as plt
from IPython.display import display
from PIL import Image


def figure(fig, alt, thumbnail=False):
    """Display and close a Matplotlib figure, described in `alt`; `thumbnail` puts it on the card in the index."""
    if not alt.strip():
        raise ValueError("a figure needs alt text: say in a sentence what it shows")
    fig.savefig(buffer := io.BytesIO(), format="png", dpi=100, bbox_inches="tight")
    plt.close(fig)
    small = Image.open(buffer).convert("RGB").quantize(256)  # looks the same, and keeps notebooks half as large
    small.save(buffer := io.BytesIO(), format="png", optimize=True)
    metadata = {"image/png": {"alt": alt}} | ({"study": {"role": "thumbnail"}} if thumbnail else {})
    display({"image/png": buffer.getvalue(), "text/plain": f"[figure: {alt}]"}, raw=True, metadata=metadata)


def table(frame, caption, index=False):
    """Display a pandas DataFrame with a caption; missing values are blank cells."""
    markup = frame.to_html(index=index, na_rep="", border=0, justify="left", escape=True)
    opening, rest = markup.split(">", 1)
    body = f"{opening}><caption>{html.escape(caption)}</caption>{rest}"
    display({"text/html": body, "text/plain": f"{caption}\n{frame.to_string(index=index, na_rep='')}"}, raw=True)


def banner(text):
    """Display a warning about the whole run that nobody can miss; the site repeats it at the top of the page."""
    style = "padding:.8em;border:3px solid #b30000;font-weight:bold"
    body = f'<div role="alert" style="{style}">⚠ {html.escape(text)}</div>'
    display({"text/html": body, "text/plain": f"⚠ {text}"}, raw=True, metadata={"study": {"role": "banner"}})


def result(text):
    """Display the notebook's finding in one sentence; it stands on the notebook's card in the index."""
    display({"text/html": f"<p><strong>{html.escape(text)}</strong></p>", "text/plain": text}, raw=True,
            metadata={"study": {"role": "result"}})
