"""Experiments on learned allocation, and its examples: they run, go on where they were, and report what they found."""

import gzip
import io
import json
import lzma
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parent.parent))
sys.path.append(str(Path(__file__).parent.parent / "examples"))
import four_mnist as four_mnist_example
import kuairand_allocation
import mnist_data

from benchmarks import allocation_cost
from benchmarks.allocation import (
    clusters,
    four_mnist,
    omniglot,
    omniglot_data,
    pairs,
    sparse_sharing,
    transfer,
    trials,
)
from benchmarks.allocation.task_heads import TaskHeads
from benchmarks.allocation.task_stream import TaskStream
from benchmarks.quality import datasets
from benchmarks.quality.encoding import encode
from benchmarks.quality.methods import METHODS
from benchmarks.quality.training import Problem, Settings

pytestmark = [
    pytest.mark.needs_tensorflow,
    pytest.mark.once,
    pytest.mark.usefixtures("without_tracing"),
    pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning"),
]


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mnist")
    random = np.random.default_rng(0)
    for name, rows in (("train", 80), ("t10k", 40)):
        images = random.integers(0, 256, (rows, 28, 28), "uint8")
        labels = np.arange(rows, dtype="uint8") % 10
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
            (folder / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + values.tobytes()))
    return folder


@pytest.fixture(scope="module")
def alphabets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("omniglot")
    random = np.random.default_rng(0)
    with tarfile.open(folder / omniglot_data.ARCHIVE, "w:xz") as archive:
        for alphabet, characters in (("Beta", 3), ("Alpha", 2), ("Gamma", 2)):
            for character in range(characters):
                for drawer in range(20):
                    name = f"images_evaluation/{alphabet}/character{character:02}/{drawer:02}.png"
                    _add(archive, name, np.where(random.random((105, 105)) < 0.1, 0, 255))
    return folder


def _add(archive, name, pixels):
    file = io.BytesIO()
    Image.fromarray(pixels.astype("uint8")).save(file, "PNG")
    entry = tarfile.TarInfo(name)
    entry.size = file.tell()
    file.seek(0)
    archive.addfile(entry, file)


def run(program, out, *arguments):
    """What a quick run of a program reports, and its records."""
    arguments = [*map(str, arguments), "--quick", "--seeds", "1", "--out", str(out)]
    program.main(arguments)
    before = out.read_bytes()
    program.main(arguments)
    assert out.read_bytes() == before  # nothing is measured twice
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "quick: no result" in out.with_suffix(".md").read_text()
    return json.loads(out.with_suffix(".json").read_text()), [json.loads(line) for line in before.splitlines()]


# ------------------------------------------------------------------------------------------------------- experiments


def test_transfer_compares_with_no_sharing_on_the_same_rows(tmp_path):
    report, rows = run(transfer, tmp_path / "t.jsonl")
    assert [row["method"] for row in rows] == list(transfer.VARIANTS)
    tests = {row["method"]: row["test"] for row in rows}
    gains = report["less_than_no_sharing"]["p=1"]
    assert gains["shared_bottom"][0] == pytest.approx(tests["no_sharing"] - tests["shared_bottom"])
    assert {row["method"]: np.sum(row["allocation"]) for row in rows[:2]} == {"shared_bottom": 8, "no_sharing": 4}
    assert all(len(row["curve"]) == 2 and np.isfinite(row["curve"]).all() for row in rows)


def test_pairs_counts_what_it_says(tmp_path):
    report, rows = run(pairs, tmp_path / "p.jsonl")
    assert rows[0]["allocation"] == np.eye(4, dtype=int).tolist()
    assert report["no_sharing"]["together"] == 0 and report["no_sharing"]["disjoint"] == 1
    together = {"together": True, "distinct": True}
    assert pairs.found(np.array([[1, 1, 0]] * 2 + [[0, 0, 1]] * 2, bool)) == {**together, "disjoint": True}
    assert pairs.found(np.array([[1, 1, 0]] * 2 + [[0, 1, 1]] * 2, bool)) == {**together, "disjoint": False}
    assert pairs.found(np.array([[1, 0], [0, 1]] * 2, bool)) == {
        "together": False,
        "distinct": False,
        "disjoint": False,
    }


def test_four_mnist_has_the_four_rows(tmp_path, mnist):
    report, rows = run(four_mnist, tmp_path / "f.jsonl", "--data", mnist)
    assert [report[variant]["active"] for variant in ("no_sharing", "shared_bottom")] == [[25.0], [100.0]]
    for row in rows:
        assert report[row["method"]]["accuracy"] == [pytest.approx(100 * np.mean(row["accuracies"]))]
    upright, _, turned, _ = four_mnist.tasks_of(np.arange(784).reshape(1, 28, 28), np.zeros(1))
    assert turned[0][0, 0, -1] == upright[0][0, 0, 0] and turned[0][0, 0, 0] == upright[0][0, -1, 0]  # clockwise


def test_clusters_are_judged_by_family(tmp_path, mnist, alphabets):
    folders = ("--mnist", mnist, "--fashion", mnist, "--omniglot", alphabets)
    report, rows = run(clusters, tmp_path / "c.jsonl", *folders)
    names = ["MNIST 0", "MNIST 1", "Fashion 0", "Fashion 1", "Omniglot Alpha", "Omniglot Beta"]
    assert report["tasks"] == rows[0]["tasks"] == names
    assert np.shape(rows[0]["probabilities"]) == (6, 6)
    p = [[0.9, 0.1]] * 2 + [[0.9, 0.1], [0.1, 0.9]] + [[0.6, 0.8]] * 2
    found = clusters.judged({**rows[0], "probabilities": p})
    assert found["within"] == pytest.approx(2 / 3) and found["embeddings"] == 3
    assert [found[f"embeddings {family}"] for family in clusters.FAMILIES] == [1, 2, 1]
    assert found["of several families"] == 1


def test_omniglot_learns_from_the_smaller_part_of_each_character(tmp_path, alphabets):
    report, rows = run(omniglot, tmp_path / "o.jsonl", "--data", alphabets)
    assert rows[0]["tasks"] == ["Alpha", "Beta"] and report["shared_bottom"]["active"] == [1.0]
    (images, labels) = omniglot_data.load(alphabets, 28, 3)["Beta"]
    assert images.shape == (60, 28, 28) and images.mean() < 60  # ink is white
    parts = omniglot_data.split(labels, omniglot.SHARES)
    assert [np.bincount(labels[rows]).tolist() for rows in parts] == [[10] * 3, [4] * 3, [6] * 3]
    assert len(np.unique(np.concatenate(parts))) == 60


def test_sparse_sharing_is_judged_by_the_two_tasks_alone(tmp_path):
    report, rows = run(sparse_sharing, tmp_path / "s.jsonl")
    losses = {row["method"]: row["loss"] for row in rows}
    assert all(set(row["metric"]) == {"first", "second"} for row in rows)
    assert [row["stranger"] is not None for row in rows] == [False, True, False, True]
    costs = report["synthetic, p = 1"]["difference"]
    assert costs["the stranger costs hard sharing"][0] == pytest.approx(losses["hard_with"] - losses["hard"])
    assert 0.5 <= min(rows[2]["kept"]) <= 1 and len(rows[3]["kept"]) == 3


def test_the_harness_counts_what_a_frozen_allocation_keeps():
    dataset = datasets.load("synthetic:p=0,d=12,m=2").thinned(200, 1)
    problem = Problem(dataset, encode(dataset))
    method = METHODS["gumbel_matrix_budget"]
    width = method.width(problem)
    trained = method.train(problem, method, width, Settings(1e-3, 0.0, 0.0), 0)
    one, other = np.array(trained.extra["allocation"])
    assert trained.extra["active"] == pytest.approx((one.sum() + other.sum()) / 6)
    assert trained.extra["overlap"] == pytest.approx((one & other).sum() / max(1, (one | other).sum()))
    logits, a_component = one.size + other.size, 12 * width + width
    unused = 3 - (one | other).sum()
    assert trained.parameters == method.parameters(problem, width) - logits - unused * a_component


def test_cost_is_a_multiple_of_the_first_side():
    found = allocation_cost.ratios({"a": {"x": 2.0, "y": 3.0}, "b": {"c": {"x": 4.0, "y": 1.0}}})
    assert found == {"a": {"x": 1.0, "y": 1.5}, "b": {"c": {"x": 1.0, "y": 0.25}}}
    layer = allocation_cost.allocated(3, [np.eye(3, 8, dtype=bool)], (4,))
    np.testing.assert_array_equal(layer.allocation()[0], np.eye(3, 8))
    assert allocation_cost.halves(5)[0].sum(axis=1).tolist() == [4] * 5


# ------------------------------------------------------------------------------------------------------ what they share


def test_a_stream_gives_batches_of_one_task_in_turn_and_every_row_once_a_pass():
    tasks = [(np.arange(6), np.arange(6)), (np.arange(10, 14), np.arange(4))]
    stream = TaskStream(tasks, batch=2, seed=0)
    inputs, labels = stream.take(3)
    assert inputs["task"].tolist() == [0, 0, 1, 1] * 3
    first = inputs["images"][inputs["task"] == 0]
    assert sorted(first) == list(range(6)) and labels[inputs["task"] == 0].tolist() == first.tolist()
    second = inputs["images"][inputs["task"] == 1].tolist()
    second += stream.take(1)[0]["images"][2:].tolist()
    assert sorted(second) == [10, 10, 11, 11, 12, 12, 13, 13]  # two passes


def test_each_row_has_its_task_s_head_and_classes():
    heads = TaskHeads([3, 2])
    x, task = np.array([[1.0, 2.0], [1.0, 2.0]], "float32"), np.array([0, 1], "int32")
    logits = np.asarray(heads(x, task=task))
    kernel, bias = np.asarray(heads.kernel), np.asarray(heads.bias)
    for row in (0, 1):
        np.testing.assert_allclose(logits[row, :2], x[row] @ kernel[row, :, :2] + bias[row, :2], rtol=1e-5)
    assert logits[1, 2] < -1e8 < logits[0, 2]


def test_intervals_are_student_s():
    # 0.70, 0.72, 0.77: mean 0.73, standard deviation sqrt(0.0013); t(0.95, 2) = 2.919986.
    mean, half = trials.interval([0.70, 0.72, 0.77])
    assert (mean, half) == pytest.approx((0.73, 2.919986 * np.sqrt(0.0013 / 3)), rel=1e-6)
    assert trials.number([0.5]) == "0.500 ± 0.000"


def test_a_table_tells_its_command_without_the_folders_of_this_machine(tmp_path):
    parser = trials.parser("four_mnist", "", seeds=30)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--reduced", action="store_true")
    options = parser.parse_args(["--data", str(tmp_path), "--seeds", "5"])
    assert trials.command(options) == "python -m benchmarks.allocation.four_mnist --seeds 5 --data DATA"
    options = parser.parse_args(["--reduced"])
    options.data = None
    assert trials.command(options).endswith("four_mnist --seeds 30 --reduced")


def test_missing_images_end_the_program_with_where_to_get_them(tmp_path):
    with pytest.raises(SystemExit, match=r"neither mnist-pngs.tar.xz nor train-images(.|\n)*rasbt"):
        mnist_data.load(tmp_path)
    with pytest.raises(SystemExit, match=r"must hold images_evaluation.tar.xz(.|\n)*brendenlake"):
        omniglot_data.load(tmp_path, 28, 1)


def test_mnist_is_the_same_from_the_archive(tmp_path, mnist):
    with tarfile.open(tmp_path / mnist_data.ARCHIVE, "w:xz") as archive:
        for part, number in (("train", 3), ("test", 8)):
            _add(archive, f"{part}/{number}/1.png", np.full((28, 28), number))
    data = mnist_data.load(tmp_path)
    assert [(part, images[0, 0, 0], labels.tolist()) for part, (images, labels) in data.items()] == [
        ("train", 3, [3]),
        ("test", 8, [8]),
    ]
    assert np.bincount(mnist_data.load(mnist)["test"][1]).tolist() == [4] * 10


# ------------------------------------------------------------------------------------------------------------ examples


def started(monkeypatch, program, *arguments):
    monkeypatch.setattr(sys, "argv", [program.__file__, "--quick", *map(str, arguments)])
    program.main()


def test_the_mnist_example_reports_what_each_task_needs(tmp_path, monkeypatch, mnist):
    started(monkeypatch, four_mnist_example, "--data", mnist, "--output", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["accuracy"]) == list(four_mnist_example.TASKS)
    assert max(report["weights"].values()) == report["weights"]["all"]
    assert (tmp_path / "allocation.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def kuairand(tmp_path):
    random = np.random.default_rng(0)
    columns = "user_id video_id date hourmin time_ms is_click is_follow is_comment is_forward long_view duration_ms "
    columns += "is_profile_enter label"
    lines = ["\t".join(columns.split())]
    for view in range(200):
        signals = random.integers(0, 2, 7)
        values = [7 + view % 2, view % 5, 20220410, 1200, view, *signals[:5], 9000, *signals[5:]]
        lines.append("\t".join(map(str, values)))
    users = ["user_id,user_active_degree,follow_user_num,follow_user_num_range", "7,full,1,a", "8,low,3,b"]
    for name, text in (("processed_standard_kcore_15.csv.xz", lines), ("user_features_pure.csv.xz", users)):
        with lzma.open(tmp_path / name, "wt") as file:
            file.write("\n".join(text) + "\n")
    return tmp_path


def test_the_kuairand_example_learns_draws_freezes_and_exports_an_allocation(tmp_path, monkeypatch, capsys, kuairand):
    started(monkeypatch, kuairand_allocation, "--data", kuairand, "--output", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["signals"] == kuairand_allocation.SIGNALS and len(report["signals"]) == 7
    assert [np.shape(each) for each in report["probabilities"]] == [(7, 4), (7, 4)]
    assert np.diag(report["cosine"]) == pytest.approx(1)
    assert report["parameters"]["frozen"] <= report["parameters"]["trained"]
    assert set(report["signatures"]) >= set(kuairand_allocation.SIGNALS)
    assert "what freezing removed:\nlayer " in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"The data are missing: (.|\n)*kuairand.com"):
        started(monkeypatch, kuairand_allocation, "--data", tmp_path / "nowhere", "--output", tmp_path)
