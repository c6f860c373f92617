"""TensorFlow Recommenders: layers of this package inside a `tfrs.Model`, with a ranking task each, on MovieLens 100K.

    python examples/tfrs_movielens.py [--output build/tfrs] [--quick]

Two tasks on one rating: is it a like (4 or 5 stars), and how many stars. `tfrs.layers.dcn.Cross` crosses the features,
`mtl.MMoE` shares between the tasks, `tfrs.tasks.Ranking` holds each task's loss and metrics. The model that is saved,
exported and scored is the functional one inside, which knows nothing of labels. Numbers to expect (seed 0) on the test
tenth: AUC of at least .78 for likes, and an error (RMSE) of the stars of at most .94. Learning rate and width were
chosen among four settings on a tenth drawn with another seed.
"""

import argparse
import json
import os
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # before Keras: tensorflow-recommenders 0.7.7 runs on tf_keras alone

import movielens_data
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_recommenders as tfrs
import tf_keras as keras
from sklearn.metrics import roc_auc_score

import mtl_layers as mtl
import serving

TASKS = movielens_data.TASKS


def build_ranker(specs):
    """Raw features -> embedding -> crosses -> MMoE -> towers."""
    features = mtl.FeatureEmbedding(specs, width=16)
    inputs = features.inputs()
    x0 = features(inputs)
    x = tfrs.layers.dcn.Cross(projection_dim=16, name="cross_1")(x0, x0)
    x = tfrs.layers.dcn.Cross(projection_dim=16, name="cross_2")(x0, x)
    x = mtl.MMoE(num_tasks=2, num_experts=4, hidden_units=(64, 32), dropout=0.2)(x)
    outputs = mtl.Towers({"like": (16,), "rating": mtl.towers.Regression((16,))})(x)
    return keras.Model(inputs, outputs, name="ranker")


class MovieLensModel(tfrs.Model):
    """The ranker with one ranking task for each of its outputs."""

    def __init__(self, ranker):
        super().__init__()
        self.ranker = ranker
        self.like = tfrs.tasks.Ranking(
            loss=mtl.losses.MaskedLoss("binary_crossentropy"), metrics=[keras.metrics.AUC(name="like_auc")]
        )
        self.rating = tfrs.tasks.Ranking(
            loss=mtl.losses.MaskedLoss("mse"), metrics=[keras.metrics.RootMeanSquaredError(name="rating_rmse")]
        )

    def call(self, rows, training=None):
        return self.ranker(movielens_data.features_of(rows), training=training)

    def compute_loss(self, rows, training=False):
        predictions = self(rows, training=training)
        labels = {task: rows[task][:, None] for task in TASKS}
        return sum(
            task(labels=labels[name], predictions=predictions[name])
            for name, task in (("like", self.like), ("rating", self.rating))
        )


def score(version, columns, output):
    """Scores the test rows from Parquet to Parquet; returns the columns of both tasks."""
    source, scored = output / "test.parquet", output / "scored.parquet"
    features = {name: list(values) for name, values in movielens_data.features_of(columns).items()}
    pq.write_table(pa.table(features), source)
    serving.score(version, source, scored, keys=["user_id", "item_id"], overwrite=True, progress=False)
    table = pq.read_table(scored)
    return {task: table[task].to_numpy() for task in TASKS}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("build/tfrs"))
    parser.add_argument("--quick", action="store_true", help="a fifth of the rows, three epochs: to see that it runs")
    arguments = parser.parse_args()
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)

    keras.utils.set_random_seed(0)
    training, test = movielens_data.load(arguments.quick)
    embedding = mtl.FeatureEmbedding(movielens_data.SPECS)
    embedding.adapt(training)
    model = MovieLensModel(build_ranker(embedding.features))
    model.compile(keras.optimizers.Adam(2e-3))
    model.fit(movielens_data.batches(training, shuffle=True), epochs=3 if arguments.quick else 8, verbose=2)
    evaluated = model.evaluate(movielens_data.batches(test), return_dict=True, verbose=0)

    model.ranker.save(output / "ranker.keras")
    ranker = keras.models.load_model(output / "ranker.keras")
    rows = movielens_data.batches(movielens_data.features_of(test))
    predictions = ranker.predict(rows, verbose=0)
    trained = model.ranker.predict(rows, verbose=0)
    if any((predictions[task] != trained[task]).any() for task in TASKS):
        raise SystemExit("the loaded ranker differs from the trained one")

    warmup = movielens_data.features_of({name: values[:8] for name, values in test.items()})
    version = serving.export(ranker, output / "model", warmup=warmup)
    scores = score(version, test, output)
    gap = max(float(np.abs(scores[task] - predictions[task][:, 0]).max()) for task in TASKS)
    auc = float(roc_auc_score(test["like"], scores["like"]))
    rmse = float(np.sqrt(np.mean((scores["rating"] - test["rating"]) ** 2)))
    print(f"test: AUC of likes {auc:.4f}, RMSE of stars {rmse:.4f}; largest difference of a score {gap:.1e}")
    if gap > 1e-5 or abs(rmse - evaluated["rating_rmse"]) > 1e-4:
        raise SystemExit("the scores are not those of the model")
    if not arguments.quick and (auc < 0.78 or rmse > 0.94):
        raise SystemExit("worse than expected: AUC of likes at least .78, RMSE of stars at most .94")
    report = {"auc": auc, "rmse": rmse, "evaluated": evaluated, "version": str(version)}
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
