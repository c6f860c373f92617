"""Trains methods on a data set: a tuning budget on validation, then seeds; every finished run is a line of JSON.

    python -m benchmarks.quality.run --dataset kuairand --data FOLDER --methods all --seeds 10 --budget 4
    python -m benchmarks.quality.run --dataset synthetic:p=0.5,m=6 --quick

Started again, it goes on where it was stopped. All methods get the same settings to try, with the same tuning seeds,
and keep the one with the least mean of the summed validation loss (an ablation, and one that trains another's network
several times, take over that one's tuning); the test rows are scored once, at the end of each run.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import itertools
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import sklearn
import tensorflow as tf
from tqdm import tqdm

import mtl_layers as mtl
from benchmarks.quality import datasets, tuning
from benchmarks.quality.encoding import encode
from benchmarks.quality.methods import METHODS
from benchmarks.quality.records import Records
from benchmarks.quality.training import Problem, Settings
from benchmarks.quality.tuning import ranked, settings_to_try
from mtl_layers._keras import keras

RESULTS = Path(__file__).parent / "results"
QUICK = {"rows": 512, "epochs": 2}
QUICK_SEARCH = {"candidates": 3, "afterwards": 10}  # routes that are trained anew, steps of a search


class Runner:
    """Runs what a file of records does not have yet."""

    def __init__(self, arguments):
        self.name, self.directory, self.quick = arguments.dataset, arguments.data, arguments.quick
        self.budget, self.seeds, self.methods = arguments.budget, range(arguments.seeds), arguments.methods
        self.tuning_seeds = tuning.seeds(arguments.tuning_seeds)
        self.records = Records(arguments.out)
        self._problems, self._widths = {}, {}

    def run(self):
        """The settings of all methods, and then seed by seed, so that the methods stay level when it is stopped."""
        self._check_costs()
        try_out = settings_to_try(self.budget, self.problem(0).dataset)
        tuned = list(dict.fromkeys(METHODS[method].tuned_as or method for method in self.methods))
        total = len(tuned) * self.budget * len(self.tuning_seeds) + len(self.methods) * len(self.seeds)
        with tqdm(total=total, unit="run", smoothing=0.05) as done:
            for seed, method, settings in itertools.product(self.tuning_seeds, tuned, try_out):
                self.once(method, "tuning", settings, seed, done)
            chosen = {method: self.chosen(method) for method in self.methods}
            for seed, method in itertools.product(self.seeds, self.methods):
                self.once(method, "final", chosen[method], seed, done)

    def problem(self, seed):
        """The data of a seed, encoded; the same for all seeds unless the data set draws its data."""
        dataset = datasets.load(self.name, self.directory, 0)
        seed = seed if dataset.redrawn else 0
        if seed not in self._problems:
            dataset = datasets.load(self.name, self.directory, seed)
            dataset = dataset.thinned(**QUICK) if self.quick else dataset
            self._problems = {seed: Problem(dataset, encode(dataset))}  # and no other, for memory's sake
        return self._problems[seed]

    def chosen(self, method):
        """The best of the settings to try."""
        tried = [asdict(settings) for settings in settings_to_try(self.budget, self.problem(0).dataset)]
        tuned = METHODS[method].tuned_as or method
        found = self.records.find(dataset=self.name, method=tuned, phase="tuning", quick=self.quick)
        return Settings(
            **ranked([row for row in found if row["settings"] in tried and row["seed"] in self.tuning_seeds])[0]
        )

    def once(self, method, phase, settings, seed, done):
        """One run, unless it is there."""
        key = {"dataset": self.name, "method": method, "phase": phase, "seed": seed}
        key |= {"settings": asdict(settings), "quick": self.quick}
        done.set_description(f"{method} {phase} {seed if phase == 'final' else ''}")
        if not self.records.find(**key):
            self.records.add({**key, **self.measured(method, phase, settings, seed)})
        done.update()

    def measured(self, method, phase, settings, seed):
        """Trains and judges; the rest of a record."""
        row, problem = METHODS[method], self.problem(seed)
        if method not in self._widths:  # the same for all seeds
            self._widths[method] = row.width(problem)
        width = self._widths[method]
        options = dict(row.options)
        if self.quick:
            options |= {name: value for name, value in QUICK_SEARCH.items() if options.get(name)}
        if "cost_of" in options:
            options["cost"] = self.cost(options["cost_of"], seed)
        keras.backend.clear_session()
        clock, cpu = time.perf_counter(), time.process_time()
        trained = row.train(problem, row, width, settings, seed, **options)
        seconds, cpu = time.perf_counter() - clock, time.process_time() - cpu
        return {
            "title": row.title,
            "parameters": {
                "budget": problem.dataset.budget,
                "matched": row.parameters(problem, width),
                "final": trained.parameters,
                "embedding": trained.embedding,
            },
            "width": width,
            "validation": problem.scores(trained.predictions["validation"], "validation"),
            "test": problem.scores(trained.predictions["test"], "test"),
            "epochs": trained.epochs,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(cpu, 2),
            "work": trained.work,
            "extra": trained.extra,
            "kinds": problem.dataset.kinds,
            "rows": {part: len(rows) for part, rows in problem.dataset.split.items()},
            "versions": {
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
                "mtl_layers": mtl.__version__,
                "numpy": np.__version__,
                "sklearn": sklearn.__version__,
            },
        }

    def cost(self, method, seed):
        """The work of a method's final run of this seed, at the settings that it keeps."""
        return self._final(method, seed, settings=asdict(self.chosen(method)))[0]["work"]

    def _check_costs(self):
        """A method that may spend what another cost comes after it, or there are no runs to go by."""
        for place, method in enumerate(self.methods):
            of = METHODS[method].options.get("cost_of")
            if of and of not in self.methods[:place] and not all(self._final(of, seed) for seed in self.seeds):
                raise SystemExit(f"{method} spends what {of} cost, and comes after it: --methods {of},{method}")

    def _final(self, method, seed, **more):
        return self.records.find(dataset=self.name, method=method, phase="final", seed=seed, quick=self.quick, **more)


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", required=True, help=f"{', '.join(datasets.NAMES)}; options after a colon")
    parser.add_argument("--data", help="folder with the data set's files")
    parser.add_argument("--methods", default="all", help=f"all, or some of {','.join(METHODS)}")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=int, default=6, help="settings that each method tries")
    parser.add_argument("--tuning-seeds", type=int, default=3, help="runs of each of these settings")
    parser.add_argument("--quick", action="store_true", help="few rows, two epochs: to see that it runs")
    parser.add_argument("--out", type=Path, help="file of records; default: results/DATASET.jsonl beside this program")
    parsed = parser.parse_args(arguments)
    dataset, _ = datasets.parse(parsed.dataset)
    parsed.methods = list(METHODS) if parsed.methods == "all" else parsed.methods.split(",")
    unknown = [method for method in parsed.methods if method not in METHODS]
    if unknown:
        parser.error(f"--methods must be among {', '.join(METHODS)}; received: {', '.join(unknown)}")
    for name in ("seeds", "budget", "tuning_seeds"):
        if (given := getattr(parsed, name)) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1; received: {given}")
    parsed.out = parsed.out or RESULTS / f"{dataset}{'-quick' if parsed.quick else ''}.jsonl"
    return parsed


def main(arguments=None):
    tf.get_logger().setLevel("ERROR")  # many models in a program are no mistake here
    runner = Runner(parse_arguments(arguments))
    runner.run()
    print(f"{len(runner.records.rows)} runs are in {runner.records.path}")


if __name__ == "__main__":
    main()
