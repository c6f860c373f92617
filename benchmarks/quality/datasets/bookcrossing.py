"""BookCrossing: is the book rated, and is the reader satisfied (8 or more of 10; over the rated books only).

The part of the crawl that case recommender provides: 2,946 users with 20 or more books, 17,384 books with 10 or more
readers, 272,678 pairs, of which 62,656 are rated. The MTNAS paper used the whole of it (1,149,780), so that its numbers
stand beside these and are not the same task: here, most users rate either nothing or much.

Split: at random (seed 0) in the paper's proportions, 800,000 / 200,000 / 149,780; the data have no times. Features are
user, place and age, and the book with author, publisher and year; the rating is a label and no feature.
"""

import html
import re
import zipfile
from pathlib import Path

import numpy as np

import mtl_layers as mtl
from benchmarks.quality.datasets import Dataset, at_random

SOURCE = """Give --data the folder with book_crossing.zip, from
https://github.com/caserec/Datasets-for-Recommender-Systems, Processed Datasets/BookCrossing/."""
PAPER_ROWS = np.array([800_000, 200_000, 149_780])
SATISFIED = 8


def load(directory, seed):
    """Reads book_crossing.zip in `directory`."""
    if directory is None:
        raise FileNotFoundError("--data must name the folder that holds book_crossing.zip")
    with zipfile.ZipFile(Path(directory) / "book_crossing.zip") as archive:
        history, ratings, users, books = (
            _lines(archive, name) for name in ("book_history", "book_ratings", "users_info", "items_info")
        )
    pairs = np.unique(np.array([[int(user), int(book)] for user, book, _ in history]), axis=0)
    rated = {(int(user), int(book)): float(rating) for user, book, rating in ratings}
    rating = np.array([rated.get(pair, np.nan) for pair in map(tuple, pairs.tolist())])
    satisfied = np.where(np.isnan(rating), np.nan, rating >= SATISFIED)

    users = {int(fields[0]): [*_place(fields[1]), float(fields[2] or "nan")] for fields in users}
    books = {int(fields[0]): _book(fields) for fields in books}
    columns = zip(*(users[user] + books[book] for user, book in pairs.tolist()), strict=True)
    names = ("city", "region", "country", "age", "author", "publisher", "year")
    features = {"user": pairs[:, 0], "book": pairs[:, 1]}
    features |= {
        name: np.array(column, "float32" if name in ("age", "year") else object)
        for name, column in zip(names, columns, strict=True)
    }
    words = ("city", "region", "country", "author", "publisher")
    specs = {name: mtl.features.Categorical(min_count=2) for name in words}
    specs |= {name: mtl.features.Categorical(dtype="int64") for name in ("user", "book")}
    specs |= {name: mtl.features.Bucketized(40) for name in ("age", "year")}
    return Dataset(
        features=features,
        specs=specs,
        labels={"rates": (~np.isnan(rating)).astype("float32"), "satisfied": satisfied.astype("float32")},
        kinds={"rates": "binary", "satisfied": "binary"},
        split=at_random(len(pairs), PAPER_ROWS / PAPER_ROWS.sum()),
        batch=1024,
        epochs=10,
    )


def _lines(archive, name):
    """The rows of a file as lists of fields. Semicolons of HTML entities were taken for separators: "&amp<tab>"."""
    text = archive.read(f"book_crossing/{name}.dat").decode("latin-1")
    text = html.unescape(re.sub(r"(&#?\w+)\t", r"\1;", text))
    return [line.rstrip("\r").split("\t") for line in text.split("\n")[1:] if line]


def _book(fields):
    """Author, publisher and year: what stands before the first picture, for some titles are cut by separators."""
    end = next(place for place, field in enumerate(fields) if field.startswith("http://images"))
    author, year, publisher = fields[end - 3 : end]
    return [author, publisher, float(year)]


def _place(text):
    """City, region and country; what is not said is empty."""
    parts = [part.strip() for part in text.split(",")]
    return [", ".join(parts[:-2]), parts[-2], parts[-1]] if len(parts) >= 3 else [text, "", ""]
