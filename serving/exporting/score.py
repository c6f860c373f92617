"""The signatures of a ranking score: with the weights of its layer, and with weights that come with the request."""

import tensorflow as tf

from mtl_layers.towers import ScoreFusion
from serving.exporting.endpoint import predict, traced
from serving.exporting.features import check_distinct

SCORE = "score"
SCORE_WITH_WEIGHTS = "score_with_weights"


def check_score(score, tasks, features):
    """Returns the names of the tasks that a `ScoreFusion` reads; it must fit the tasks and features of a model."""
    if not isinstance(score, ScoreFusion):
        raise ValueError(f"`score` must be a mtl.ScoreFusion; received: {score!r}")
    unknown = [name for name in score.names if name not in tasks and name not in features]
    read = [name for name in score.names if name in tasks]
    if unknown or not read:
        raise ValueError(
            f"`score` must have weights for at least one task of {list(tasks)}, and otherwise for features of "
            f"{list(features)}; received: {list(score.names)}"
        )
    check_distinct([*features, *weight_specs(score)])
    return read


def weight_specs(score):
    """The inputs that carry the weights of a request: each `[batch, 1]`, since servers batch all inputs alike."""
    return {f"weight_{name}": tf.TensorSpec([None, 1], tf.float32, name=f"weight_{name}") for name in score.names}


def score_functions(score, model, features):
    """Both signatures, as traced `tf.function`s; `model` predicts the tasks that the score reads."""
    # Here, and not in the graph that is traced: a layer makes its variables when it is built.
    score.build({name: tuple(tensor.shape) for name, tensor in {**model.output, **features}.items()})

    def fused(inputs, weights=None):
        rows = {name: inputs[name] for name in features}
        return {SCORE: score({**predict(model, rows), **rows}, weights=weights)}

    def with_weights(inputs):
        return fused(inputs, {name: inputs[f"weight_{name}"] for name in score.names})

    return {
        SCORE: traced(lambda inputs: fused(inputs), features),
        SCORE_WITH_WEIGHTS: traced(with_weights, {**features, **weight_specs(score)}),
    }
