"""The alphabets of Omniglot: images of characters, each drawn by twenty people.

Read from a tar file of ALPHABET/characterNN/*.png, as images_evaluation of https://github.com/brendenlake/omniglot,
whose 20 alphabets are of 105 x 105 pixels.
"""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

ARCHIVE = "images_evaluation.tar.xz"


def load(directory, size, count):
    """For each of the first `count` alphabets by name: images `[rows, size, size]` as uint8, ink 255, and labels."""
    path = Path(directory) / ARCHIVE
    if not path.exists():
        raise SystemExit(f"{directory} must hold {ARCHIVE}.\n{__doc__}")
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.endswith(".png"):
                alphabet, character, _ = member.name.split("/")[-3:]
                found.setdefault(alphabet, []).append((character, archive.extractfile(member).read()))
    alphabets = {}
    for alphabet in sorted(found)[:count]:
        characters, files = zip(*sorted(found[alphabet]), strict=True)
        labels = np.unique(characters, return_inverse=True)[1].astype("int32")
        alphabets[alphabet] = np.stack([_image(file, size) for file in files]), labels
    return alphabets


def _image(file, size):
    image = Image.open(io.BytesIO(file)).convert("L")
    if image.width != size:
        image = image.resize((size, size), Image.Resampling.BOX)
    return 255 - np.asarray(image)


def split(labels, shares, seed=0):
    """Row numbers of the parts of each character's drawings, by shares that sum to 1."""
    random, parts = np.random.default_rng(seed), [[] for _ in shares]
    for character in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == character))
        ends = (np.cumsum(shares)[:-1] * len(rows)).round().astype(int)
        for part, chosen in zip(parts, np.split(rows, ends), strict=True):
            part.append(chosen)
    return [np.concatenate(part) for part in parts]
