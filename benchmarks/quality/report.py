"""Tables and figures from the runs in a file.

    python -m benchmarks.quality.report benchmarks/quality/results/kuairand.jsonl

writes kuairand.md, kuairand.json (the numbers of the tables) and a figure for each data set beside it. Intervals are
95 % t-intervals over seeds; differences are paired by seed. They say how far the training's own chance reaches, not how
far the choice of test rows does.
"""

import argparse
import json
import re
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.intervals import t_interval
from benchmarks.quality import datasets
from benchmarks.quality.methods import METHODS
from benchmarks.quality.paper import PAPER
from benchmarks.quality.records import Records
from benchmarks.quality.tuning import ranked

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BASELINE = "single_task"


def interval(values):
    """Mean and half the width of its 95 % t-interval, which is `None` for a single value."""
    mean, half = t_interval(values, 0.95)
    return float(mean), float(half) if len(values) > 1 else None


def final_runs(rows):
    """Dict from method to its final runs at the best settings of its tuning that have any, by seed."""
    runs = {}
    trained = {row["method"] for row in rows if row["phase"] == "final"}
    for method in (method for method in METHODS if method in trained):
        mine = [row for row in rows if row["method"] == method]
        tuned = METHODS[method].tuned_as or method
        for settings in ranked([row for row in rows if row["method"] == tuned and row["phase"] == "tuning"]):
            found = {row["seed"]: row for row in mine if row["phase"] == "final" and row["settings"] == settings}
            if found:
                runs[method] = found
                break
    return runs


def measures(row):
    """What a run is judged by: each task's metric on the test rows, and the summed loss."""
    return {**row["test"]["metric"], "summed loss": row["test"]["summed_loss"]}


def summary(rows):
    """The numbers of the table: per method mean and half interval of each measure, and of its difference."""
    runs = final_runs(rows)
    table = {}
    for method, found in runs.items():
        base = runs.get(BASELINE, {})
        common = [seed for seed in found if seed in base]
        names = list(measures(next(iter(found.values()))))
        table[method] = {
            "title": next(iter(found.values()))["title"],
            "seeds": len(found),
            "values": {name: [measures(row)[name] for row in found.values()] for name in names},
            "mean": {name: interval([measures(row)[name] for row in found.values()]) for name in names},
            "difference": {
                name: interval([measures(found[seed])[name] - measures(base[seed])[name] for seed in common])
                for name in names
                if common and method != BASELINE
            },
            "settings": next(iter(found.values()))["settings"],
            "parameters": float(np.mean([row["parameters"]["final"] for row in found.values()])),
            "matched": next(iter(found.values()))["parameters"]["matched"],
            "embedding": next(iter(found.values()))["parameters"]["embedding"],
            "cpu_seconds": float(np.median([row["cpu_seconds"] for row in found.values()])),
            "work": float(np.mean([row["work"] for row in found.values()])),
            "routes": _routes([row["extra"] for row in found.values()]),
        }
    return table


def _routes(extras):
    """What searches found: how far tasks' routes overlap, how often not at all, which candidate won how often.

    And the entropy of what they learned, in nats: near the logarithm of the number of routes of a block (60 with four
    sub-networks, 21 with three) they have decided nothing. And what the searched route, trained anew, is worth before
    validation chooses: its validation loss, less that of the full route trained anew.
    """
    overlaps = [extra["overlap"] for extra in extras if "overlap" in extra]
    if not overlaps:
        return {}
    found = {"overlap": interval(overlaps), "disjoint": sum(overlap == 0 for overlap in overlaps)}
    entropies = [extra["entropy"] for extra in extras if "entropy" in extra]
    found |= {"entropy": float(np.mean(entropies))} if entropies else {}
    losses = [extra["losses"] for extra in extras if {"derived", "full"} <= extra.get("losses", {}).keys()]
    found |= {"gain": interval([each["derived"] - each["full"] for each in losses])} if losses else {}
    chosen = [extra["chosen"] for extra in extras if "chosen" in extra]
    return found | ({"chosen": {name: chosen.count(name) for name in sorted(set(chosen))}} if chosen else {})


def markdown(name, table, kinds):
    """The tables of a data set as text: values, differences, and what the methods chose."""
    measured = list(next(iter(table.values()))["mean"])
    heads = [f"{m} {'AUC' if kinds[m] == 'binary' else 'MSE'}" if m in kinds else m for m in measured]
    source, paper = PAPER.get(name.partition(":")[0], (None, {}))
    seeds = sorted({row["seeds"] for row in table.values()})
    values = _table(
        ["method", *heads, "parameters", "embeddings", "CPU seconds", "work", *(["paper"] if paper else [])],
        [
            [
                *(number(*row["mean"][m]) for m in measured),
                f"{row['parameters']:,.0f}",
                f"{row['embedding']:,}",
                f"{row['cpu_seconds']:.0f}",
                f"{row['work'] / 1e6:.1f}",
                *([" / ".join("-" if v is None else f"{v:.4f}" for v in paper.get(m, ()))] if paper else []),
            ]
            for m, row in table.items()
        ],
        table,
    )
    differences = _table(
        ["difference", *heads],
        [
            [number(*row["difference"][m], signed=True) if row["difference"] else "" for m in measured]
            for row in table.values()
        ],
        table,
    )
    choices = _table(
        ["method", "matched parameters", "settings chosen on validation", "routes"],
        [
            [f"{row['matched']:,}", ", ".join(f"{key} {value:g}" for key, value in row["settings"].items()), _said(row)]
            for row in table.values()
        ],
        table,
    )
    notes = [
        f"Test rows, {' to '.join(map(str, seeds))} seeds; ± half of the 95 % t-interval over seeds. Parameters above "
        "the embeddings, of what is left at the end; CPU seconds of a run, median; work in millions "
        "of row passes (a row trained on is three, a row scored one)."
    ]
    notes += [f"Paper: {source}."] if source else []
    if any("gain" in row["routes"] for row in table.values()):
        notes.append("Derived less full: validation losses of the searched and the full route, trained anew once each.")
    paired = f"Differences from {table[BASELINE]['title']}, paired by seed." if BASELINE in table else ""
    return "\n\n".join([values, *notes, *([differences, paired] if paired else []), choices])


def _table(heads, cells, table):
    rows = [[row["title"], *more] for row, more in zip(table.values(), cells, strict=True)]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(mean, half, signed=False):
    """A mean and the half of its interval, if it has one, as text."""
    text = f"{mean:{'+' if signed else ''}.4f}"
    return text if half is None else f"{text} ± {half:.4f}"


def _said(row):
    routes = row["routes"]
    if not routes:
        return ""
    text = f"overlap {number(*routes['overlap'])}, disjoint {routes['disjoint']} of {row['seeds']}"
    text += f", entropy {routes['entropy']:.2f}" if "entropy" in routes else ""
    text += f", derived less full {number(*routes['gain'], signed=True)}" if "gain" in routes else ""
    return text + "".join(f", {name} {count}" for name, count in routes.get("chosen", {}).items())


def _made_with(name, rows, table):
    """The command that gives these runs, and the versions that it ran with."""
    seeds = max(row["seeds"] for row in table.values())
    tuned = [row for row in rows if row["phase"] == "tuning"]
    tried = {(row["method"], *row["settings"].values()) for row in tuned}
    budget = max(map([method for method, *_ in tried].count, table), default=0)
    trained = {method: METHODS[method].tuned_as or method for method in table}
    counts = {method: len({row["seed"] for row in tuned if row["method"] == of}) for method, of in trained.items()}
    most = max(counts.values())
    more = f"--methods {','.join(table)} --seeds {seeds} --budget {budget} --tuning-seeds {most}"
    command = f"python -m benchmarks.quality.run {datasets.arguments(name)} {more}"
    fewer = [f"{table[method]['title']} on {count}" for method, count in counts.items() if count < most]
    exceptions = f" Tuned on fewer seeds: {', '.join(fewer)}." if fewer else ""
    return f"`{command}`, with {_listed(rows[-1]['versions'])}.{exceptions}"


def _listed(values, thousands=""):
    return ", ".join(f"{name} {value:{thousands}}" for name, value in values.items())


def draw(name, table, kinds, path):
    """A panel per measure: every seed a small dot, the mean with its interval, and the baseline's mean as a line."""
    measured = list(next(iter(table.values()))["mean"])
    size = (3.2 * len(measured) + 1.6, 0.34 * len(table) + 1.2)
    figure, axes = plt.subplots(1, len(measured), sharey=True, figsize=size, layout="constrained", squeeze=False)
    for measure, place in zip(measured, axes[0], strict=True):
        for height, row in enumerate(table.values()):
            mean, half = row["mean"][measure]
            place.plot(row["values"][measure], [height] * row["seeds"], ".", color="0.75", markersize=4)
            place.errorbar(mean, height, xerr=half, fmt="o", color="C0", capsize=3, markersize=5)
        if BASELINE in table:
            place.axvline(table[BASELINE]["mean"][measure][0], color="0.4", linewidth=0.8, linestyle="--")
        better = "higher" if kinds.get(measure) == "binary" else "lower"
        place.set_title(f"{measure} ({better} is better)", fontsize=9)
        place.tick_params(labelsize=8)
        place.grid(axis="x", alpha=0.3)
    axes[0][0].set_yticks(range(len(table)), [row["title"] for row in table.values()])
    axes[0][0].invert_yaxis()
    figure.suptitle(name, fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def report(path):
    """Writes tables and figures of all data sets in a file of records; returns the text."""
    path, sections, numbers = Path(path), [], {}
    rows = Records(path).rows
    for name, quick in dict.fromkeys((row["dataset"], row["quick"]) for row in rows):
        chosen = [row for row in rows if row["dataset"] == name and row["quick"] == quick]
        table = summary(chosen)
        if not table:
            continue
        title = f"{name} (quick: no result)" if quick else name
        figure = path.with_name(re.sub(r"[^\w.=-]", "_", f"{name}-quick" if quick else name) + ".png")
        draw(title, table, chosen[0]["kinds"], figure)
        text = markdown(name, table, chosen[0]["kinds"])
        head = f"Rows: {_listed(chosen[0]['rows'], ',')}. {_made_with(name, chosen, table)}"
        sections.append(f"## {title}\n\n{head}\n\n{text}\n\n![{title}]({figure.name})\n")
        numbers[title] = table
    if not sections:
        raise SystemExit(f"{path} has no final run yet: python -m benchmarks.quality.run --help")
    text = "\n".join(sections)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return text


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("records", type=Path, help="a file that benchmarks.quality.run wrote")
    print(report(parser.parse_args(arguments).records))


if __name__ == "__main__":
    main()
