"""What a run looks like in the terminal: a live table, or plain lines where there is none, and the summary."""

import json
import time
from datetime import timedelta

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

COLOURS = {"waiting": "dim", "running": "cyan", "done": "green", "kept": "blue", "failed": "bold red"}
QUIET = 10  # seconds between two metrics of one notebook in plain lines


class Progress:
    """The state of each notebook, shown while the run goes on; changes may come from any thread."""

    def __init__(self, names):
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = 120
        self.rows = {name: {"state": "waiting", "section": "", "metric": "", "told": 0} for name in names}
        self.live = Live(get_renderable=self._table, console=self.console, transient=True)

    def __enter__(self):
        if self.console.is_interactive:
            self.live.start()
        return self

    def __exit__(self, *_):
        self.live.stop()

    def say(self, text):
        """Print a line."""
        self.console.print(Text(text), soft_wrap=True)

    def update(self, name, **changes):
        """Take over what is new about a notebook: state, section, metric, seconds, error."""
        row, now = self.rows[name], time.monotonic()
        row |= changes | ({"started": now} if changes.get("state") == "running" else {})
        if self.live.is_started or ("metric" in changes and now - row["told"] < QUIET):
            return
        row["told"] = now if "metric" in changes else row["told"]
        words = {"section": "section {}", "seconds": "{} s"}
        told = (words.get(key, "{}").format(value) for key, value in changes.items() if value)
        self.say(f"{name}: {' · '.join(told)}")

    def _table(self):
        columns = {"section": "section", "last metric": "metric"}
        return self._grid({title: lambda _, row, key=key: Text(row[key]) for title, key in columns.items()})

    def summary(self, folder):
        """Print the table that ends a run: what became of each notebook, its best record and its report."""
        best = {}
        for path in (folder / "records").glob("*.json"):
            record = json.loads(path.read_text(encoding="utf-8"))
            accuracy = record["metrics"]["accuracy"]["value"]
            best[record["notebook"]] = max(accuracy, best.get(record["notebook"], 0))

        def link(name, _):
            page = folder / "site" / f"{name}.html"
            return f"[link={page.resolve().as_uri()}]site/{page.name}[/link]" if page.exists() else ""

        accuracies = {name: f"{value:.1%}" for name, value in best.items()}
        self.console.print(self._grid({"best accuracy": lambda name, _: accuracies.get(name, ""), "report": link}))
        for name, row in self.rows.items():
            if row.get("error"):
                self.say(f"{name} failed: {row['error']}")

    def _grid(self, more):
        """Return a table of all notebooks, with more columns: {title: function of name and row}."""
        table = Table("notebook", "state", "elapsed", *more, box=None, pad_edge=False)
        for name, row in self.rows.items():
            seconds = row.get("seconds") or ("started" in row and time.monotonic() - row["started"])
            elapsed = str(timedelta(seconds=round(seconds))) if seconds else ""
            cells = (column(name, row) for column in more.values())
            table.add_row(name, Text(row["state"], COLOURS[row["state"]]), elapsed, *cells)
        return table
