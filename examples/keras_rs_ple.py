"""Keras Recommenders: feature crosses of keras-rs under PLE, on Census-Income.

    python examples/keras_rs_ple.py [--output build/keras_rs] [--quick]

`keras_rs.layers.FeatureCross` (DCN v2) multiplies features with each other; what comes out goes into the sharing layer
like any other vector. keras-rs runs on Keras 3. Numbers to expect (seed 0): test AUC of at least .955 for income and
.9945 for never married, as without crosses: on this table they change nothing that one seed could show.
"""

import argparse
import json
from pathlib import Path

import census_data
import census_model
import keras
import keras_rs
import numpy as np
import tensorflow as tf

import mtl_layers as mtl
import serving

TASKS = census_data.TASKS


def crossed_ple(x0):
    """Two crosses, each of the features with what is below it, and PLE on top."""
    x = keras_rs.layers.FeatureCross(projection_dim=32)(x0, x0)
    x = keras_rs.layers.FeatureCross(projection_dim=32)(x0, x)
    sharing = mtl.PLE(2, 2, num_task_experts=1, num_shared_experts=2, hidden_units=((128,), (64,)), dropout=0.1)
    return sharing(x)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("build/keras_rs"))
    parser.add_argument("--quick", action="store_true", help="a twentieth of the rows, one epoch: to see that it runs")
    arguments = parser.parse_args()
    output, epochs = arguments.output, 1 if arguments.quick else 6
    output.mkdir(parents=True, exist_ok=True)

    training, _, test = census_data.load_parts(arguments.quick)
    embedding = mtl.FeatureEmbedding(census_data.SPECS)
    embedding.adapt(training[0])
    keras.utils.set_random_seed(0)
    model = census_model.build(embedding.features, crossed_ple, TASKS)
    steps = -(-len(training[1]["income"]) // census_data.BATCH)
    census_model.fit(model, census_data.batches(*training, shuffle=True), steps, epochs)
    predictions = model.predict(census_data.batches(test[0]), verbose=0)
    aucs = census_data.aucs(predictions, test[1])
    print(f"test AUC: income {aucs['income']:.4f}, never married {aucs['never_married']:.4f}")

    model.save(output / "model.keras")
    loaded = keras.models.load_model(output / "model.keras")
    version = serving.export(loaded, output / "model")
    served = tf.saved_model.load(str(version)).signatures["serving_default"]
    rows = {name: tf.constant(column[:100, None].tolist()) for name, column in test[0].items()}
    gap = max(float(np.abs(scores - predictions[task][:100]).max()) for task, scores in served(**rows).items())
    print(f"saved, loaded and exported: largest difference of a score {gap:.1e}")
    if gap > 1e-6:
        raise SystemExit("the exported model differs from the trained one")
    if not arguments.quick and (aucs["income"] < 0.955 or aucs["never_married"] < 0.9945):
        raise SystemExit("worse than expected: at least .955 and .9945")
    crosses = [layer.count_params() for layer in model.layers if isinstance(layer, keras_rs.layers.FeatureCross)]
    report = {"auc": aucs, "gap": gap, "parameters_of_crosses": crosses, "version": str(version)}
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
