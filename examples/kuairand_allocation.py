"""Which signals of feedback belong together? A GumbelMatrix learns it in training, and is served without the rest.

    python examples/kuairand_allocation.py --data FOLDER [--output build/kuairand_allocation] [--quick]

FOLDER holds KuaiRand, see kuairand_data.py. Seven signals of a view are seven tasks, over two levels of eight
components each. The figure shows the probabilities that a signal uses a component, and how alike signals are in that.
Numbers to expect (seed 0): click, long view and like choose nearly alike (cosines of .82 to .91), and forward others
(.28 to .46 with them); test AUC .72 for click, .72 for long view, .83 for like. One allocation is one sample: compare
seeds before you read much into it.
"""

import argparse
import json
from pathlib import Path

import kuairand_data
import matplotlib
import numpy as np
from sklearn.metrics import roc_auc_score

import mtl_layers as mtl
import serving
from mtl_layers._keras import keras

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SIGNALS = list(kuairand_data.SIGNALS)


def build(specs, components):
    """Raw features -> embedding -> components, chosen by each signal -> a small tower for each signal."""
    features = mtl.FeatureEmbedding(specs, width=8)
    inputs = features.inputs()
    sharing = mtl.GumbelMatrix(
        len(SIGNALS),
        num_components=(components, components),
        hidden_units=((64,), (32,)),
        dropout=0.1,
        p_init=0.8,  # and not 0.5: before components are good for anything, a signal might drop them all
        temperature=1.0,  # a thousand steps are few: the published one begins at 50 and would hardly move anything
        budget=0.5,  # else nothing keeps a signal from using everything
        budget_weight=0.1,  # weak beside the losses, or it decides alone
        seed=0,
        name="sharing",
    )
    embedded = keras.layers.Dropout(0.3)(features(inputs))
    return keras.Model(inputs, mtl.Towers(dict.fromkeys(SIGNALS, (16,)))(sharing(embedded))), sharing


def aucs(model, features, signals):
    """Exact AUC of each signal that occurs among the rows and is not all there is."""
    predictions = model.predict(kuairand_data.batches(features, signals).map(lambda x, y: x), verbose=0)
    return {
        signal: float(roc_auc_score(labels, np.ravel(predictions[signal])))
        for signal, labels in signals.items()
        if 0 < labels.mean() < 1
    }


def draw(sharing, path):
    figure, axes = plt.subplots(1, 2, figsize=(12, 4), layout="constrained", width_ratios=(2, 1))
    title = "probability that a signal uses a component"
    mtl.analysis.plot_allocation(sharing.probabilities(), SIGNALS, axes[0], title)
    embeddings = mtl.analysis.task_embeddings(sharing)
    mtl.analysis.plot_task_clusters(embeddings, SIGNALS, axes[1], "cosine of the choices")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the two files of KuaiRand")
    parser.add_argument("--output", type=Path, default=Path("build/kuairand_allocation"))
    parser.add_argument("--quick", action="store_true", help="one epoch, four components: to see that it runs")
    arguments = parser.parse_args()
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)

    features, signals, specs = kuairand_data.load(arguments.data)
    training, validation, test = kuairand_data.parts(features, signals)
    embedding = mtl.FeatureEmbedding(specs)
    embedding.adapt(training[0])
    rates = ", ".join(f"{signal} {labels.mean():.1%}" for signal, labels in training[1].items())
    print(f"{len(training[1]['click']):,} views to train on: {rates}")

    keras.utils.set_random_seed(0)
    model, sharing = build(embedding.features, components=4 if arguments.quick else 8)
    model.compile(keras.optimizers.Adam(1e-3), **mtl.losses.per_task(dict.fromkeys(SIGNALS, "binary_crossentropy")))
    history = model.fit(
        kuairand_data.batches(*training, shuffle=True),
        validation_data=kuairand_data.batches(*validation),
        epochs=1 if arguments.quick else 10,
        callbacks=[
            mtl.analysis.AllocationLog(entries=False),
            keras.callbacks.EarlyStopping("val_loss", patience=3, restore_best_weights=True),
        ],
        verbose=2,
        shuffle=False,
    ).history

    draw(sharing, output / "allocation.png")
    embeddings = mtl.analysis.task_embeddings(sharing)
    cosine = mtl.analysis.cosine_similarity(embeddings)
    print("\nthe nearest signal of each, by the cosine of their choices:")
    for signal, row in zip(SIGNALS, cosine - 2 * np.eye(len(SIGNALS)), strict=True):
        print(f"  {signal:14} {SIGNALS[row.argmax()]:14} {row.max():.2f}")

    frozen = mtl.freeze(model)
    print(f"\nwhat freezing removed:\n{frozen.freeze_report}")
    result = aucs(frozen, *test)
    print("\ntest AUC: " + ", ".join(f"{signal} {auc:.3f}" for signal, auc in result.items()))
    version = serving.export(frozen, output / "model")
    report = {
        "signals": SIGNALS,
        "probabilities": [each.tolist() for each in sharing.probabilities()],
        "cosine": cosine.tolist(),
        "clusters": mtl.analysis.task_clusters(embeddings).tolist(),
        "parameters": {"trained": model.count_params(), "frozen": frozen.count_params()},
        "validation_loss": history["val_loss"],
        "test_auc": result,
        "signatures": json.loads((version / "manifest.json").read_text())["signatures"],
    }
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\neverything is in {output}: allocation.png, report.json, model")


if __name__ == "__main__":
    main()
