"""Packaging of mtl_layers: the layers, the serving tools and the two commands."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

SERVING = [
    "tensorflow-serving-api>=2.19,<2.22",  # the protos of PredictionService, and of warm-up records
    "grpcio>=1.71",
    "aiohttp>=3.10",
    "requests>=2.32",
    "pyarrow>=17",
    "tqdm>=4.66",
]

DOCS = [
    "matplotlib>=3.8",
    "mkdocs>=1.6,<2",
    "mkdocstrings-python>=2",
    "pygments>=2.17",
    "pymdown-extensions>=10",
]

setup(
    name="mtl_layers",
    version="0.1.0",
    description="Multi-task layers for Keras recommenders: build, train, freeze, export, serve, score.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["mtl_layers*", "serving*"]),
    package_data={"serving": ["deploy/*"]},
    install_requires=["tensorflow>=2.19,<2.22", "keras>=3.10,<4", "numpy>=1.26"],
    extras_require={
        "serving": SERVING,
        "plot": ["matplotlib>=3.8", "scipy>=1.12", "tensorboard>=2.19"],
        "docs": DOCS,
        "legacy": ["tf_keras>=2.19,<2.22"],
        "test": [
            *SERVING,
            *DOCS,
            "coverage>=7.6",
            "hypothesis>=6.100",
            "jax>=0.4.30",
            "keras-rs>=0.4",
            "keras-tuner>=1.4.8",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "pyyaml>=6",
            "ruff>=0.6",
            "scikit-learn>=1.4",
            "tensorboard>=2.19",
            "tensorflow-recommenders>=0.7.7",
            "tf_keras>=2.19,<2.22",
        ],
    },
    entry_points={
        "console_scripts": [
            "mtl-serve = serving.local_server:main",
            "mtl-score = serving.batch_scoring:main",
        ]
    },
)
