"""Images of 28 x 28 pixels and their classes, from the files of MNIST or of Fashion-MNIST.

A folder with the four original files (train-images-idx3-ubyte.gz and so on; of Fashion-MNIST they are also in the
Debian package dataset-fashion-mnist, under /usr/share/datasets/fashion-mnist), or with mnist-pngs.tar.xz, the folders
train and test of https://github.com/rasbt/mnist-pngs packed by tar and xz, a folder of PNG files for each class.
"""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

ARCHIVE = "mnist-pngs.tar.xz"
NAMES = {"train": "train", "test": "t10k"}


def load(directory):
    """Dict from `"train"` and `"test"` to images `[rows, 28, 28]` and labels `[rows]`, as uint8 in random order."""
    directory = Path(directory)
    if all((directory / f"{name}-images-idx3-ubyte.gz").exists() for name in NAMES.values()):
        found = {
            part: (_idx(directory, name, "images-idx3"), _idx(directory, name, "labels-idx1"))
            for part, name in NAMES.items()
        }
    elif (directory / ARCHIVE).exists():
        found = _from_archive(directory / ARCHIVE)
    else:
        raise SystemExit(f"{directory} has neither {ARCHIVE} nor train-images-idx3-ubyte.gz and its like.\n{__doc__}")
    order = {part: np.random.default_rng(0).permutation(len(labels)) for part, (_, labels) in found.items()}
    return {part: (images[order[part]], labels[order[part]]) for part, (images, labels) in found.items()}


def _idx(directory, name, kind):
    content = gzip.decompress((directory / f"{name}-{kind}-ubyte.gz").read_bytes())
    dimensions = np.frombuffer(content, ">i4", content[3], offset=4)
    return np.frombuffer(content, "uint8", offset=4 + 4 * len(dimensions)).reshape(dimensions)


def _from_archive(path):
    images, labels = {part: [] for part in NAMES}, {part: [] for part in NAMES}
    with tarfile.open(path) as archive:
        for member in archive:
            part, _, rest = member.name.partition("/")
            if rest.endswith(".png"):
                images[part].append(np.asarray(Image.open(io.BytesIO(archive.extractfile(member).read()))))
                labels[part].append(int(rest.partition("/")[0]))
    return {part: (np.stack(images[part]), np.array(labels[part], "uint8")) for part in NAMES}
