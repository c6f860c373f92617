"""The masks of sparse sharing: each task alone is trained, pruned and rewound, again and again."""

import math
from numbers import Real

import numpy as np

from mtl_layers._checks import check_number, check_rate
from mtl_layers._keras import keras
from mtl_layers.search._magnitude_pruning import prune_smallest
from mtl_layers.sharing import SparseSharing
from mtl_layers.towers import Towers
from mtl_layers.towers.trace import trace


class SparseSharingPruner:
    """Finds the masks of a model's `SparseSharing` layer by iterative magnitude pruning, one task after the other.

    ```
    theta_0 = the model's weights
    for each task:         M_0 = 1
        for r = 0 to R:    theta = theta_0;  train M_r * theta on this task alone and score it
                           M_{r+1} = M_r without the fraction prune_rate of its weights, those smallest in theta
        its mask         = the M_r with the best score; of those within `tolerance` of it the sparsest
    R = the first r with (1 - prune_rate)^r <= final_kept
    ```

    For a multi-task warm-up fit the model before: theta_0 is whatever it then holds. Everything is rewound to theta_0
    for each training, at the end of `prune` as well: embeddings, biases and towers with the kernels, of which alone
    weights are pruned. Then compile and fit the model on all tasks as always, with a new optimizer, whose momentum is
    zero.

    Args:
        train: Function of a model and a task's name, which trains the model and returns its score on validation data
            as a number, the higher the better. The model has this task as its only output. `train` is to compile it,
            each time anew: the optimizer of the time before would bring its momentum.
        prune_rate: Fraction of the weights left that goes in each round, in (0, 1). Defaults to `0.2`.
        final_kept: Fraction of weights left at which pruning stops, in (0, 1]. Defaults to `0.1`.
        threshold: `"global"`, the smallest weights of all layers go; or `"layer"`, those of each layer. Defaults to
            `"global"`.
        layer_floor: Fraction of each layer that always stays, in [0, 1); one weight does in any case. Defaults to
            `0.01`.
        tolerance: How far below the best score a sparser mask may lie and still be taken. Defaults to `0.0`.
        verbose: Whether to show a progress bar, with a step for each training. Defaults to `True`.

    Raises:
        ValueError: If an argument is out of range, the model has not exactly one `SparseSharing` with `Towers` on top,
            a tower reads other tasks (as those of `AITM` do), or `train` returns no finite number.

    Example:
        >>> inputs = keras.Input((6,))
        >>> sharing = mtl.SparseSharing(num_tasks=2, hidden_units=(8, 8))
        >>> model = keras.Model(inputs, mtl.Towers({"click": (), "buy": ()})(sharing(inputs)))
        >>> x, labels = np.ones((32, 6), "float32"), {task: np.ones((32, 1)) for task in ("click", "buy")}
        >>> def train(model, task):
        ...     model.compile("adam", **mtl.losses.per_task({task: "binary_crossentropy"}))
        ...     model.fit(x, {task: labels[task]}, verbose=0)
        ...     return -model.evaluate(x, {task: labels[task]}, verbose=0)
        >>> report = mtl.SparseSharingPruner(train, prune_rate=0.5, final_kept=0.25, verbose=False).prune(model)
        >>> [(each["task"], each["round"], each["kept"]) for each in report][:4]
        [('click', 0, 1.0), ('click', 1, 0.5), ('click', 2, 0.25), ('buy', 0, 1.0)]

    Source: Sun et al., "Learning Sparse Sharing Architectures for Multiple Tasks", AAAI 2020, Algorithm 1.
    """

    def __init__(
        self,
        train,
        prune_rate=0.2,
        final_kept=0.1,
        *,
        threshold="global",
        layer_floor=0.01,
        tolerance=0.0,
        verbose=True,
    ):
        if not callable(train):
            raise ValueError(f"`train` must be a function of a model and a task's name; received: train={train!r}")
        if check_rate("prune_rate", prune_rate) == 0:
            raise ValueError(f"`prune_rate` must be above 0; received: prune_rate={prune_rate!r}")
        if check_number("final_kept", final_kept, maximum=1.0) == 0:
            raise ValueError(f"`final_kept` must be above 0; received: final_kept={final_kept!r}")
        if threshold not in ("global", "layer"):
            raise ValueError(f'`threshold` must be "global" or "layer"; received: threshold={threshold!r}')
        self.train = train
        self.prune_rate = prune_rate
        self.final_kept = final_kept
        self.threshold = threshold
        self.layer_floor = check_rate("layer_floor", layer_floor)
        self.tolerance = check_number("tolerance", tolerance)
        self.verbose = verbose

    def prune(self, model):
        """Sets the masks of the model's `SparseSharing`; all weights are afterwards what they were before.

        Returns:
            A list with a dict for each training: `task`, `round` (how often it had been pruned), `kept` (the fraction
            of weights that its mask left), `score`, and `chosen`, which is True once for each task.
        """
        traced = _traced(model)
        sharing, towers = traced.sharing, traced.towers
        rounds = math.ceil(round(math.log(self.final_kept) / math.log1p(-self.prune_rate), 9))
        trainings = sharing.num_tasks * (rounds + 1)
        bar = keras.utils.Progbar(trainings, verbose=int(self.verbose), stateful_metrics=["kept", "score"])
        chosen, report = [], []
        for index, task in enumerate(towers.task_names):
            masks, records = [], []
            for candidate, kept, score in self._candidates(_alone(model, traced, index), task, rounds):
                masks.append(candidate)
                records.append({"task": task, "round": len(records), "kept": kept, "score": score, "chosen": False})
                bar.update(index * (rounds + 1) + len(records), values=[("kept", kept), ("score", score)])
            best = max(record["score"] for record in records)
            # They come in the order of sparsity: the last of those that tie is the sparsest.
            winner = max(number for number, each in enumerate(records) if each["score"] >= best - self.tolerance)
            records[winner]["chosen"] = True
            chosen.append(masks[winner])
            report += records
        if len(report) < trainings:  # some task came to the floor of all layers
            bar.update(trainings, finalize=True)
        sharing.set_masks([np.concatenate(layer) for layer in zip(*chosen, strict=True)])
        return report

    def _candidates(self, alone, task, rounds):
        """Yields each mask with the fraction that it keeps and its score, and leaves all weights as they were."""
        sparse = next(layer for layer in alone.layers if isinstance(layer, SparseSharing))
        start, masks = alone.get_weights(), sparse.hard_masks()
        try:
            for number in range(rounds + 1):
                sparse.set_masks(masks)
                score = self.train(alone, task)
                if not isinstance(score, Real) or not math.isfinite(score):
                    raise ValueError(
                        f"`train` must return a finite number, the score of the model; received: {score!r} for task "
                        f"{task!r} in round {number}"
                    )
                yield masks, float(sparse.kept_fractions()[0]), float(score)
                pruned = prune_smallest(sparse.kernels, masks, self.prune_rate, self.threshold, self.layer_floor)
                if all((new == old).all() for new, old in zip(pruned, masks, strict=True)):
                    return  # all layers are at their floor
                masks = pruned
                alone.set_weights(start)
        finally:
            alone.set_weights(start)


def _traced(model):
    """The `SparseSharing` of a model, and the `Towers` on top of it."""
    layers = model.layers if isinstance(getattr(model, "output", None), dict) else []  # else it is not functional
    found = [[layer for layer in layers if isinstance(layer, kind)] for kind in (SparseSharing, Towers)]
    if [len(each) for each in found] != [1, 1]:
        raise ValueError(
            "`model` must be a functional model with one SparseSharing and one Towers; "
            f"received: {len(found[0])} and {len(found[1])} of them in {model!r}"
        )
    (sharing,), (towers,) = found
    traced = trace(model)
    if traced.sharing is not sharing or traced.between:
        raise ValueError(f"`model` must have {towers.name!r} directly on {sharing.name!r}; received: something between")
    for index, name in enumerate(towers.task_names):
        if towers.reads([index]) != (index,):
            raise ValueError(
                f"`model` must have towers that each read their own task alone, so that it can be trained on its own; "
                f"received: {towers.name!r}, a {type(towers).__name__}, whose {name!r} reads other tasks"
            )
    return traced


def _alone(model, traced, index):
    """A model of one task: the layers below are the model's own, the sharing layer and the tower are copies."""
    sharing, towers, below = traced.sharing, traced.towers, traced.sharing_reads
    name = f"{sharing.name}_task_{index}"  # not the name of the task, which may be none for a layer
    alone = SparseSharing.from_config({**sharing.get_config(), "num_tasks": 1, "name": name})
    hidden = alone(below if len(below.shape) == 2 else below[:, index])
    for mine, theirs in zip(alone.trained_kernels, sharing.kernels, strict=True):
        mine.assign(theirs)
    for mine, theirs in zip(alone.biases, sharing.biases, strict=True):
        mine.assign(theirs.numpy())  # a copy: JAX would let both variables hold one array, and `fit` delete it
    return keras.Model(model.input, towers.freeze([index])(hidden[:, 0]))
