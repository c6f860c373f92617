"""The quality harness: runs end to end, goes on after a kill, and reports what it says it reports."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from example_run import needs_census

sys.path.append(str(Path(__file__).parent.parent))
from benchmarks.quality import datasets, report
from benchmarks.quality.encoding import Encoded
from benchmarks.quality.methods import METHODS
from benchmarks.quality.records import Records
from benchmarks.quality.run import main, settings_to_try
from benchmarks.quality.training import Problem

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.needs_tensorflow, pytest.mark.once]
SEARCHES = ("synthetic:p=0,d=12,m=2", "shared_bottom,full_route,mtnas_recipe,random_routes,restarts", "--seeds", "1")


def command(out, dataset, methods, *more):
    program = [sys.executable, "-m", "benchmarks.quality.run", "--dataset", dataset, "--methods", methods]
    return [*program, "--quick", "--budget", "1", "--out", str(out), *more]


def run(*arguments):
    done = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in Path(arguments[0]).read_text().splitlines()]


def keys(rows):
    return [(row["method"], row["phase"], row["seed"]) for row in rows]


# ------------------------------------------------------------------------------------------------------- end to end


@needs_census
def test_a_quick_run_on_census_ends_in_a_table_and_a_figure(tmp_path):
    out = tmp_path / "census.jsonl"
    rows = run(out, "census", "single_task,shared_bottom", "--seeds", "1")
    tuned = [(method, "tuning", 1_000_000) for method in ("single_task", "shared_bottom")]
    assert keys(rows) == [*tuned, ("single_task", "final", 0), ("shared_bottom", "final", 0)]
    for row in rows:
        for part in ("validation", "test"):
            assert set(row[part]["metric"]) == {"income", "never_married"}
            assert 0.5 < row[part]["metric"]["never_married"] < 1
            assert row[part]["summed_loss"] == pytest.approx(sum(row[part]["loss"].values()))
        assert abs(row["parameters"]["matched"] / row["parameters"]["budget"] - 1) < 0.03
    single, shared = rows[2:]
    assert len(single["epochs"]) == 2 and single["parameters"]["embedding"] == 2 * shared["parameters"]["embedding"]

    text = report.report(out)
    assert f"| Shared-Bottom | {shared['test']['metric']['income']:.4f} |" in text
    gap = shared["test"]["metric"]["income"] - single["test"]["metric"]["income"]
    assert f"| Shared-Bottom | {gap:+.4f} |" in text
    assert "0.9295 / 0.9921" in text  # the paper's
    assert out.with_suffix(".md").read_text() == text
    assert (tmp_path / "census-quick.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """A run on synthetic data that was killed while it wrote a line, and started again; what was finished, and all."""
    out = tmp_path_factory.mktemp("resumed") / "synthetic.jsonl"
    process = subprocess.Popen(
        command(out, *SEARCHES), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while (not out.exists() or b"\n" not in out.read_bytes()) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = out.read_bytes()
    finished = finished[: finished.rfind(b"\n") + 1]
    out.write_bytes(finished + finished[: len(finished) // 2].rstrip(b"\n"))
    return finished, run(out, *SEARCHES), out


def test_a_killed_run_goes_on_without_losing_or_repeating_anything(resumed):
    finished, rows, out = resumed
    assert 1 <= finished.count(b"\n") < len(rows)
    everything = out.read_bytes()
    assert everything.startswith(finished)
    methods = SEARCHES[1].split(",")
    assert keys(rows) == [(m, "tuning", 1_000_000) for m in methods[:2]] + [(m, "final", 0) for m in methods]
    main(command(out, *SEARCHES)[3:])
    assert out.read_bytes() == everything


def test_the_same_seed_gives_the_same_model(resumed, tmp_path):
    main(command(tmp_path / "again.jsonl", SEARCHES[0], "shared_bottom", "--seeds", "1")[3:])
    again = json.loads((tmp_path / "again.jsonl").read_text().splitlines()[-1])
    first = next(row for row in resumed[1] if row["method"] == "shared_bottom" and row["phase"] == "final")
    assert again["test"]["summed_loss"] == pytest.approx(first["test"]["summed_loss"], rel=1e-5)


def test_a_recipe_takes_the_best_of_the_inherited_and_the_retrained_routes(resumed):
    recipe = resumed[1][-3]
    extra = recipe["extra"]
    assert json.loads(extra["route"])["num_subnetworks"] == 3 and 0 <= extra["overlap"] <= 1
    assert list(extra["losses"])[:2] == ["inherited", "derived"] and len(extra["losses"]) > 3
    assert extra["chosen"] == min(extra["losses"], key=extra["losses"].get)
    assert recipe["validation"]["summed_loss"] == pytest.approx(extra["losses"][extra["chosen"]], abs=1e-6)
    assert recipe["parameters"]["final"] <= recipe["parameters"]["matched"]


def test_restarts_and_random_routes_spend_what_the_recipe_cost(resumed, tmp_path):
    full, (recipe, random, restarts) = resumed[1][1], resumed[1][-3:]
    assert {row["settings"]["learning_rate"] for row in (recipe, random, restarts)} == {
        full["settings"]["learning_rate"]
    }
    for row in (random, restarts):
        assert row["work"] == row["extra"]["trained"] * full["work"]
        assert recipe["work"] <= row["work"] < recipe["work"] + full["work"]
    with pytest.raises(SystemExit, match="--methods mtnas_recipe,restarts"):
        main(command(tmp_path / "r.jsonl", SEARCHES[0], "restarts,mtnas_recipe")[3:])


# --------------------------------------------------------------------------------------------------------- the records


def test_half_a_line_at_the_end_is_cut_off_and_one_before_it_is_an_error(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"seed": 0}\n{"se')
    assert Records(path).rows == [{"seed": 0}]
    assert path.read_text() == '{"seed": 0}\n'
    path.write_text('{"se\n{"seed": 0}\n')
    with pytest.raises(SystemExit, match="line 1, is no JSON"):
        Records(path)


def test_a_larger_tuning_budget_adds_to_a_smaller_one():
    dataset = datasets.load("synthetic:d=4,m=2")
    few, more = settings_to_try(3, dataset), settings_to_try(6, dataset)
    assert more[:3] == few and len(set(more)) == 6
    assert {settings.l2 for settings in more} == {0.0}  # there is no table


# ---------------------------------------------------------------------------------------------------------- the report


def record(method, seed, income, loss, phase="final", validation=1.0, rate=0.001):
    return {
        "dataset": "toy",
        "method": method,
        "title": method.upper(),
        "phase": phase,
        "seed": seed,
        "settings": {"learning_rate": rate},
        "quick": False,
        "kinds": {"income": "binary"},
        "rows": {"train": 3},
        "parameters": {"final": 10, "matched": 10, "embedding": 5},
        "validation": {"summed_loss": validation},
        "test": {"metric": {"income": income}, "summed_loss": loss},
        "cpu_seconds": 1.0,
        "work": 3,
        "extra": {},
    }


def test_intervals_are_student_s_over_paired_seeds():
    # 0.70, 0.72, 0.77: mean 0.73, standard deviation sqrt(0.0013); t(0.975, 2) = 4.302653.
    half = 4.302653 * np.sqrt(0.0013) / np.sqrt(3)
    assert report.interval([0.70, 0.72, 0.77]) == pytest.approx((0.73, half), rel=1e-6)
    assert report.interval([0.7]) == (0.7, None)

    rows = [record(method, 0, 0, 0, "tuning") for method in ("single_task", "mmoe")]
    rows += [record("single_task", seed, auc, 0.5) for seed, auc in ((0, 0.70), (1, 0.72), (2, 0.77))]
    rows += [record("mmoe", seed, auc, 0.4) for seed, auc in ((2, 0.79), (0, 0.71), (1, 0.75), (3, 0.1))]
    table = report.summary(rows)
    # 0.01, 0.03, 0.02 where both have the seed: mean 0.02, standard deviation 0.01.
    assert table["mmoe"]["difference"]["income"] == pytest.approx((0.02, 4.302653 * 0.01 / np.sqrt(3)), rel=1e-6)
    assert table["mmoe"]["difference"]["summed loss"] == pytest.approx((-0.1, 0), abs=1e-9)
    assert table["mmoe"]["seeds"] == 4 and table["single_task"]["difference"] == {}
    text = report.markdown("toy", table, {"income": "binary"})
    assert f"| SINGLE_TASK | 0.7300 ± {half:.4f} | 0.5000 ± 0.0000 | 10 | 5 | 1 | 0.0 |" in text
    assert "| MMOE | +0.0200 ± 0.0248 | -0.1000 ± 0.0000 |" in text


def test_the_table_shows_the_settings_that_were_best_on_validation():
    rows = [
        record("mmoe", 9, 0, 0, "tuning", validation, rate) for validation, rate in ((0.9, 0.1), (0.8, 0.2), (0.7, 0.3))
    ]
    rows += [record("mmoe", 0, 0.6, 1, rate=0.1), record("mmoe", 0, 0.5, 1, rate=0.2)]
    assert report.summary(rows)["mmoe"]["values"]["income"] == [0.5]  # those at 0.3 have not run yet


# ------------------------------------------------------------------------------------------------------ what is matched


@pytest.mark.parametrize(
    ("dim", "tasks", "options"),
    [
        (310, 3, {}),
        (100, 2, {"budget": 13_056, "layers": 1, "subnetworks": 3, "tower": (8,)}),
    ],
    ids=["recommender", "synthetic"],
)
def test_all_methods_have_the_same_number_of_parameters_within_3_percent(dim, tasks, options):
    names = [f"task_{number}" for number in range(tasks)]
    dataset = datasets.Dataset({}, {}, dict.fromkeys(names), dict.fromkeys(names, "binary"), {}, **options)
    problem = Problem(dataset, Encoded({}, {}, 0, dim))
    for name, method in METHODS.items():
        assert method.parameters(problem, method.width(problem)) == pytest.approx(dataset.budget, rel=0.03), name


# --------------------------------------------------------------------------------------------------------- the scores


def test_scores_look_only_at_a_task_s_own_rows():
    dataset = datasets.load("synthetic:d=4,m=2")
    labels = {"rated": np.array([1, 0, 1, 0], "float32"), "liked": np.array([1, np.nan, 0, np.nan], "float32")}
    dataset = datasets.replace(dataset, kinds={"rated": "binary", "liked": "binary"}, labels=labels)
    problem = Problem(dataset, Encoded({}, {"test": labels}, 0, 4))
    predictions = {"rated": np.array([0.9, 0.8, 0.7, 0.1]), "liked": np.array([0.8, 0.0, 0.4, 1.0])}
    scores = problem.scores(predictions, "test")
    assert scores["metric"] == {"rated": 0.75, "liked": 1.0}
    assert scores["loss"]["liked"] == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2)
    assert scores["summed_loss"] == pytest.approx(sum(scores["loss"].values()))
