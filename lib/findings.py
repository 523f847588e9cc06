"""What the study found in a few sentences, from the records alone, for the first page of the site."""

from functools import partial

from lib import data, records

ABOUT = 1.2  # times the shortest prediction time: what is nearer differs by the noise of a machine in use


def models(found):
    """Return {experiment: record} of the models that answered the same test images, those that most answered.

    Random in place of pre-trained weights say nothing about a model and are left out; the most accurate comes first.
    """
    groups = {}
    for name, record in found.items():
        images = record["dataset"]
        if record["pretrained"] != "random" and images.keys() >= {"name", "fingerprint", "test"}:
            groups.setdefault((images["name"], images["fingerprint"], images["test"]), {})[name] = record
    group = max(groups.values(), key=len, default={})
    return dict(sorted(group.items(), key=lambda item: -item[1]["metrics"]["accuracy"]["value"]))


def sentences(profile, found):
    """Return the findings as pairs of a number and the sentence that it begins, from records {experiment: record}."""
    group = models(found)
    if group:
        parts = (part(group) for part in (_from_scratch, _recipe, _fastest))
        pairs = [_best(group, _waiting(found)), *filter(None, parts)]
    else:
        pairs = [("0 models", f"have a record of this run: invoke run-all {records.options(profile)} trains them.")]
    if {record["dataset"]["name"] for record in found.values()} <= {"cifar10", "digits"}:  # which stand in for CIFAR-10
        pairs.append(_claims(profile, found))
    return [[part.replace(" %", "\N{NO-BREAK SPACE}%") for part in pair] for pair in pairs]


def _best(group, waiting):
    name, record = next(iter(group.items()))
    images = record["dataset"]
    which = f"the best of {len(group)} models" if len(group) > 1 else "the only model run"
    return _percent(record), (
        f"of the {images['test']:,} test images of {data.title(images['name'])} are classified rightly "
        f"by {which}, {_title(name)}; the 95 % interval is {_interval(record)}."
        + (f" {waiting} more models wait for their run." if waiting else ""))


def _waiting(found):
    """How many experiments have no record; one with random weights has been run, too."""
    from lib import decks

    return len(set(decks.names()) - found.keys())


def _from_scratch(group):
    best = next(iter(group.values()))
    name = next((name for name, record in group.items() if not record["pretrained"]), None)
    if name is None or group[name] is best:  # then the first sentence says it
        return None
    costs = [f"{record['model']['flops'] / 1e6:,.0f}" for record in (group[name], best)]
    return _percent(group[name]), (f"is the best without pre-training: {_title(name)} {_interval(group[name])}, "
                                   f"for {costs[0]} instead of {costs[1]} million operations per image.")


def _recipe(group):
    """The largest gain of one of our recipes over the deck's, of the same network."""
    from lib import decks

    bases = {name: row["of"] for name, row in decks.load()["own"].items() if "of" in row}
    pairs = [(_points(group[name]) - _points(group[deck]), deck, name) for name, deck in bases.items()
             if name in group and deck in group and _size(group[name]) == _size(group[deck])]
    gain, deck, own = max(pairs, default=(0, "", ""))
    if gain <= 0:
        return None
    seconds = [f"{group[name]['training']['seconds']:,.0f}" for name in (own, deck)]
    return f"+{gain:.1f} points", (
        f"come from the recipe alone: {_title(deck)} reaches {_percent(group[own])} {_interval(group[own])} in place "
        f"of {_percent(group[deck])} {_interval(group[deck])} with the same {_size(group[deck])[0]:,} parameters, "
        f"after {seconds[0]} instead of {seconds[1]} seconds of training.")


def _size(record):
    return record["model"]["total_parameters"], record["model"]["flops"]


def _fastest(group):
    best, shortest = next(iter(group)), min(map(_time, group.values()))
    quick = next(name for name in group if _time(group[name]) <= ABOUT * shortest)  # the most accurate of these
    near = [name for name, record in group.items() if _points(record) >= _points(group[best]) - 1]
    fast = min(near, key=lambda name: _time(group[name]))
    text = "per image is the prediction time of the best"
    text += "; none within one point of it is faster" if len(near) > 1 else ""
    if fast != best:
        text = f"per image takes {_title(fast)}, the fastest within one point of the best, with {_percent(group[fast])}"
    if quick != fast:
        text += (f"; {_title(quick)} is the best of those about as fast as any: {_time(group[quick]):.2g} ms, "
                 f"{_percent(group[quick])}")
    return f"{_time(group[fast]):.2g} ms", f"{text}."


def _claims(profile, found):
    """How many of the decks' claims got which verdict; the words are those of the ledger in notebook 12."""
    from lib import decks

    import pandas as pd

    parts = decks.ledger(found), decks.details(found, partial(records.predictions, profile))
    counts = pd.concat(parts)["verdict"].str.partition(":")[0].value_counts()
    count = {verdict: int(counts.get(verdict, 0)) for verdict in decks.SIGNS}
    return f"{count['reproduced'] + count['exceeded']} of {counts.sum()}", (
        f"claims of the five slide decks are reproduced ({count['reproduced']}) or exceeded ({count['exceeded']}); "
        f"{count['not reached']} are not reached, {count['inconsistent in itself']} contradict themselves, "
        f"and {count['not checkable here']} wait for a run, for weights or for the deck's own device.")


def _title(name):
    from lib import decks  # slow to import, and not needed where the site is as its records are

    return f"“{decks.title(name)}” ({name})"


def _points(record):
    """Accuracy in per cent, rounded as it is written: differences agree with what a reader subtracts."""
    return round(100 * record["metrics"]["accuracy"]["value"], 1)


def _time(record):
    return record["latency"]["batch_1_ms"]["median"]


def _percent(record):
    return f"{_points(record):.1f} %"


def _interval(record):
    accuracy = record["metrics"]["accuracy"]
    return f"[{100 * accuracy['low']:.1f}, {100 * accuracy['high']:.1f}]"
