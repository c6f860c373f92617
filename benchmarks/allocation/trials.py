"""What the programs here share: their options, trials that go on where they were stopped, intervals and reports."""

import argparse
import itertools
import json
import logging
import time
from pathlib import Path

import matplotlib
from tqdm import tqdm

import mtl_layers as mtl
from benchmarks.intervals import t_interval
from benchmarks.quality.records import Records
from mtl_layers._keras import BACKEND, keras

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"


def parser(name, description, seeds):
    """The options that all programs have."""
    options = argparse.ArgumentParser(prog=f"benchmarks.allocation.{name}", description=description.split("\n")[0])
    options.set_defaults(program=name)
    options.add_argument("--seeds", type=int, default=seeds, help=f"trials of each kind; default: {seeds}")
    options.add_argument("--quick", action="store_true", help="a few steps: to see that it runs; no result")
    options.add_argument("--out", type=Path, default=RESULTS / f"{name}.jsonl", help="file of records; it is added to")
    return options


def run(options, problems, variants, settings, measure):
    """Measures what the records do not have, seed by seed; returns the rows of all these trials.

    Args:
        options: From `parser`.
        problems: Names of problems, and `variants` those of what is tried on each.
        settings: A dict that says how trials are made: with another one they are made anew.
        measure: Function of (problem, variant, seed) that gives a dict of JSON.
    """
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # many models in a program are no mistake here
    records = Records(options.out)
    keys = [
        {"dataset": problem, "method": variant, "phase": "final", "seed": seed, "settings": settings}
        | {"quick": options.quick}
        for seed, problem, variant in itertools.product(range(options.seeds), problems, variants)
    ]
    for key in tqdm(keys, unit="trial", smoothing=0.05):
        if records.find(**key):
            continue
        keras.backend.clear_session()
        keras.utils.set_random_seed(key["seed"])
        clock = time.process_time()
        found = measure(key["dataset"], key["method"], key["seed"])
        versions = {"keras": keras.__version__, "backend": BACKEND, "mtl_layers": mtl.__version__}
        records.add({**key, **found, "cpu_seconds": round(time.process_time() - clock, 2), "versions": versions})
    return [records.find(**key)[0] for key in keys]


def of(rows, problem, variant):
    """The rows of a problem and variant, in the order of their seeds."""
    return [row for row in rows if (row["dataset"], row["method"]) == (problem, variant)]


def interval(values):
    """Mean and half the width of its 90 % t-interval, as the papers give it; the half is 0 for a single value."""
    return t_interval(values, 0.9)


def number(values, digits=3):
    """Mean and half interval of values as text."""
    mean, half = interval(values)
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def draw_curve(axes, steps, curves, label, color):
    """The mean of curves `[trials, steps]` as a line in its 90 % interval."""
    mean, half = interval(curves)
    axes.plot(steps, mean, label=label, color=color)
    axes.fill_between(steps, mean - half, mean + half, color=color, alpha=0.25, linewidth=0)


def command(options):
    """The command line, with names in the place of folders."""
    words = ["python", "-m", f"benchmarks.allocation.{options.program}"]
    for name, value in vars(options).items():
        if name not in ("program", "out") and value is not None and value is not False:
            words.append(f"--{name}")
            words += [] if value is True else [name.upper() if isinstance(value, Path) else str(value)]
    return " ".join(words)


def report(options, rows, title, heads, lines, notes, numbers, figure):
    """Writes the table of these rows, its numbers and the figure beside the records, and prints the table."""
    title = f"{title} (quick: no result)" if options.quick else title
    versions = sorted({", ".join(map(" ".join, row["versions"].items())) for row in rows})
    numbers = {"command": command(options), "versions": versions, **numbers}
    notes = f"{notes}\n\n`{numbers['command']}`, with {' and '.join(versions)}."
    table = [heads, ["---", *["---:"] * (len(heads) - 1)], *lines]
    table = "\n".join(f"| {' | '.join(map(str, line))} |" for line in table)
    options.out.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    figure.savefig(options.out.with_suffix(".png"), dpi=120)
    plt.close(figure)
    text = f"# {title}\n\n{table}\n\n{notes}\n"
    options.out.with_suffix(".md").write_text(
        f"{text}\n![{title}]({options.out.with_suffix('.png').name})\n", encoding="utf-8"
    )
    print(text)
