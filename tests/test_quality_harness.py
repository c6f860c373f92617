"""The quality harness: runs end to end, goes on after a kill, and reports what it says it reports."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import UNMEASURED, eagerly
from example_run import ROOT, needs_census
from scipy.special import expit

sys.path.append(str(ROOT))
from benchmarks.quality import datasets, procedures, report
from benchmarks.quality.encoding import Encoded, encode
from benchmarks.quality.methods import METHODS
from benchmarks.quality.records import Records
from benchmarks.quality.run import Runner, main, parse_arguments
from benchmarks.quality.training import Problem, Settings
from benchmarks.quality.tuning import FIRST_SEED, ranked, settings_to_try

pytestmark = [
    pytest.mark.needs_tensorflow,
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning"),
]
SEARCHES = ("synthetic:p=0,d=12,m=2", "shared_bottom,full_route,mtnas_recipe,restarts")


def arguments(out, dataset, methods):
    budget = ["--budget", "1", "--tuning-seeds", "1", "--seeds", "1"]
    return ["--dataset", dataset, "--methods", methods, "--quick", *budget, "--out", str(out)]


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def keys(rows):
    return [(row["method"], row["phase"], row["seed"]) for row in rows]


# ------------------------------------------------------------------------------------------------------- end to end


@needs_census
def test_a_quick_run_on_census_ends_in_a_table_and_a_figure(tmp_path, without_tracing):
    out = tmp_path / "census.jsonl"
    main(arguments(out, "census", "single_task,shared_bottom"))
    rows = rows_of(out)
    tuned = [(method, "tuning", FIRST_SEED) for method in ("single_task", "shared_bottom")]
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
    command = [sys.executable, "-m", "benchmarks.quality.run", *arguments(out, *SEARCHES)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=ROOT, env=UNMEASURED, start_new_session=True, **quiet)
    deadline = time.monotonic() + 120
    while (not out.exists() or b"\n" not in out.read_bytes()) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = out.read_bytes()
    finished = finished[: finished.rfind(b"\n") + 1]
    out.write_bytes(finished + finished[: len(finished) // 2].rstrip(b"\n"))
    with eagerly():
        main(arguments(out, *SEARCHES))
    return finished, rows_of(out), out


def test_a_killed_run_goes_on_without_losing_or_repeating_anything(resumed):
    finished, rows, out = resumed
    assert 1 <= finished.count(b"\n") < len(rows)
    everything = out.read_bytes()
    assert everything.startswith(finished)
    methods = SEARCHES[1].split(",")
    tuned = [method for method in methods if METHODS[method].tuned_as is None]
    assert keys(rows) == [(m, "tuning", FIRST_SEED) for m in tuned] + [(m, "final", 0) for m in methods]
    main(arguments(out, *SEARCHES))
    assert out.read_bytes() == everything


def test_the_same_seed_gives_the_same_model(resumed, tmp_path):
    """Compiled or not: the run that was killed was compiled."""
    main(arguments(tmp_path / "again.jsonl", SEARCHES[0], "shared_bottom"))
    again = rows_of(tmp_path / "again.jsonl")
    for number, phase in enumerate(("tuning", "final")):
        first = next(row for row in resumed[1] if row["method"] == "shared_bottom" and row["phase"] == phase)
        assert again[number]["test"]["summed_loss"] == pytest.approx(first["test"]["summed_loss"], rel=1e-5)


def test_a_recipe_takes_the_best_of_the_inherited_and_the_retrained_routes(resumed):
    recipe = resumed[1][-2]
    extra = recipe["extra"]
    assert json.loads(extra["route"])["num_subnetworks"] == 3 and 0 <= extra["overlap"] <= 1
    assert list(extra["losses"])[:2] == ["inherited", "derived"] and len(extra["losses"]) > 3
    assert extra["chosen"] == min(extra["losses"], key=extra["losses"].get)
    assert recipe["validation"]["summed_loss"] == pytest.approx(extra["losses"][extra["chosen"]], abs=1e-6)
    assert recipe["parameters"]["final"] <= recipe["parameters"]["matched"]


def test_restarts_spend_what_the_recipe_cost(resumed, tmp_path):
    (tuned, full), (recipe, restarts) = resumed[1][1:5:3], resumed[1][-2:]
    assert full["method"] == "full_route" and restarts["settings"] == full["settings"] == tuned["settings"]
    assert restarts["work"] == restarts["extra"]["trained"] * full["work"]
    assert recipe["work"] <= restarts["work"] < recipe["work"] + full["work"]
    with pytest.raises(SystemExit, match="--methods mtnas_recipe,restarts"):
        main(arguments(tmp_path / "r.jsonl", SEARCHES[0], "restarts,mtnas_recipe"))


def test_restarts_go_by_the_cost_of_the_recipe_at_the_settings_that_it_keeps(resumed, tmp_path):
    out, (recipe,) = (
        tmp_path / "r.jsonl",
        [row for row in resumed[1] if keys([row])[0][:2] == ("mtnas_recipe", "final")],
    )
    stale = {**recipe, "settings": {**recipe["settings"], "dropout": 0.9}, "work": 50 * recipe["work"]}
    out.write_text("".join(json.dumps(row) + "\n" for row in [stale, *resumed[1]]))
    assert Runner(parse_arguments(arguments(out, *SEARCHES))).cost("mtnas_recipe", 0) == recipe["work"]


def test_random_routes_are_others_for_every_seed(without_tracing):
    dataset = datasets.load("synthetic:d=4,m=2").thinned(512, 1)
    problem, method = Problem(dataset, encode(dataset)), METHODS["random_routes"]
    found = [method.train(problem, method, 4, Settings(0.01, 0.0, 0.0), seed, 1, "") for seed in range(3)]
    assert len({trained.extra["route"] for trained in found}) == 3
    assert all(trained.extra["trained"] == 1 and trained.work == 3 * 500 for trained in found)


def test_ablations_take_another_route_of_the_supernet_that_the_search_has_seen(without_tracing):
    dataset = datasets.load("synthetic:d=4,m=2").thinned(512, 1)
    problem = Problem(dataset, encode(dataset))

    def trained(name, seed):
        method = METHODS[name]
        return method.train(problem, method, 4, Settings(0.01, 0.0, 0.0), seed, **{**method.options, "afterwards": 2})

    found, full = trained("mtnas_recipe_inherited", 0), trained("inherited_full", 0)
    assert found.extra["entropy"] == full.extra["entropy"] and found.work == full.work
    (everything,) = {tuple(block["values"]) for block in json.loads(full.extra["route"])["blocks"]}
    assert everything == (0, 1, 2) and found.extra["route"] != full.extra["route"]
    assert full.parameters == METHODS["inherited_full"].parameters(problem, 4)
    drawn = [json.loads(trained("inherited_random", seed).extra["route"])["blocks"] for seed in (0, 1)]
    assert drawn[0] != drawn[1] and found.extra["route"] != drawn[0]


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


def test_settings_are_ranked_by_their_mean_over_seeds():
    losses = {0.1: (0.5, 1.3), 0.2: (0.8, 0.8), 0.3: (0.7, 0.8)}  # 0.1 has the best run and the worst mean
    rows = [
        {"settings": {"learning_rate": rate, "l2": 0.0}, "validation": {"summed_loss": loss}}
        for seed in range(2)
        for rate, each in losses.items()
        for loss in [each[seed]]
    ]
    assert [settings["learning_rate"] for settings in ranked(rows)] == [0.3, 0.2, 0.1]
    assert ranked(rows)[0] == {"learning_rate": 0.3, "l2": 0.0}


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


def test_the_table_says_who_was_tuned_on_fewer_seeds():
    tuned = [record(method, seed, 0, 0, "tuning") for method, seed in (("mmoe", 8), ("mmoe", 9), ("ple", 9))]
    rows = [{**row, "versions": {"keras": "3"}} for row in [*tuned, record("mmoe", 0, 0, 0), record("ple", 0, 0, 0)]]
    text = report._made_with("synthetic", rows, report.summary(rows))
    assert "--budget 1 --tuning-seeds 2`" in text and text.endswith(" Tuned on fewer seeds: PLE on 1.")


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
    kinds = {
        (repr(getattr(m.layer, "keywords", m.layer)), m.separate): m for m in METHODS.values()
    }  # several of a kind
    assert 15 < len(kinds) < len(METHODS)
    for method in kinds.values():
        assert method.parameters(problem, method.width(problem)) == pytest.approx(dataset.budget, rel=0.03), method


# ------------------------------------------------------------------------------------------------------- the epochs


def test_networks_stopped_together_are_left_at_the_epoch_that_is_best_for_their_sum(without_tracing):
    dataset = datasets.load("synthetic:d=4,m=2").thinned(512, 6)
    labels = {
        "first": dataset.labels["first"],
        "second": np.random.default_rng(0).permutation(dataset.labels["second"]),
    }
    dataset = datasets.replace(dataset, labels=labels)  # of the second there is nothing to learn
    problem, settings, method = Problem(dataset, encode(dataset)), Settings(0.01, 0.0, 0.0), METHODS["single_task"]
    alone = {}  # the validation losses of each task, epoch by epoch
    for task in dataset.tasks:
        procedures.set_seed(3)
        model = problem.network(method.layer(dataset, 1, 64, 0.0), settings, [task])
        alone[task] = problem.fit(model, settings).losses
    together = np.add(*(losses[: min(map(len, alone.values()))] for losses in alone.values()))
    apart = procedures.single_task(problem, method, 64, settings, 3)
    assert apart.epochs == [int(np.argmin(losses)) + 1 for losses in alone.values()]
    assert apart.validation_loss == pytest.approx(sum(map(min, alone.values())), rel=1e-6)
    stopped = procedures.single_task(problem, method, 64, settings, 3, together=True)
    assert stopped.epochs == int(np.argmin(together)) + 1
    for trained, loss in ((apart, apart.validation_loss), (stopped, together.min())):
        assert problem.scores(trained.predictions["validation"], "validation")["summed_loss"] == pytest.approx(loss)
    assert len(set(apart.epochs)) == 2, "else both are the same"


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


def test_calibrated_logits_are_scaled_on_the_validation_rows_that_have_a_label():
    """By hand: of the validation rows 1/4 and 3/4 are positive where the logit is 1 and 5, so 1.1 (x - 3) / 2 it is."""
    labels = {"liked": np.array([1, 0, 0, 0, np.nan, 1, 1, 1, 0], "float32")}
    dataset = datasets.Dataset({}, {}, labels, {"liked": "binary"}, {})
    problem = Problem(dataset, Encoded({}, {"validation": labels}, 0, 4))
    predictions = {
        "validation": {"liked": expit([1.0, 1.0, 1.0, 1.0, 9.0, 5.0, 5.0, 5.0, 5.0])},
        "test": {"liked": expit([3.0, 1.0])},
    }
    train = lambda *_, work: procedures.Trained(9.0, predictions, 1, 1, 1, work)  # noqa: E731
    found = procedures.calibrated(problem, None, 4, None, 0, train=train, work=7)
    assert found.predictions["test"]["liked"] == pytest.approx([0.5, 0.25], abs=1e-4)
    assert found.validation_loss == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)), abs=1e-6)
    assert found.work == 7

    problem = Problem(datasets.replace(dataset, kinds={"liked": "regression"}), problem.encoded)
    with pytest.raises(ValueError, match="binary tasks; received: liked is a regression"):
        procedures.calibrated(problem, None, 4, None, 0, train=train, work=7)
