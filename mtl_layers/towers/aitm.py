"""Towers of a chain of events, each of which hands on what it found to the next."""

from itertools import pairwise

from mtl_layers._checks import check_indexes, check_number
from mtl_layers._keras import build_part, keras, ops, register
from mtl_layers._rows import mean_over_rows
from mtl_layers.towers._chain import check_chain
from mtl_layers.towers._transfer import Transfer
from mtl_layers.towers.towers import FrozenTowers, Towers


@register
class AITM(Towers):
    """Towers along a chain of events (click, cart, purchase), where every task reads what the one before found.

    ```
    q_t  = hidden layers of tower t                           z_1 = q_1
    u    = activation(z_{t-1} @ W_t + b_t)  or  q_t           what is passed on, what the task found itself
    z_t  = sum_u softmax_u(<u @ Q_t, u @ K_t> / sqrt(width)) u @ V_t
    p_t  = sigmoid(z_t @ w_t)                                 P(the chain came as far as t), for every row
    loss = calibrator * sum_t mean(max(p_t - p_{t-1}, 0))     a later event cannot be likelier than one before it
    ```

    The loss of the last line is part of the loss of `fit`, like that of a regularizer. Labels are those of the entire
    space: a purchase is 1 where all of the chain happened and 0 elsewhere, so every row has them all.

    Args:
        tasks: As for `mtl.Towers`. The hidden layers come before the transfer, the last layer after it.
        chain: Names of binary tasks in the order of the events, as a tuple; other tasks are as in `mtl.Towers`.
            Defaults to `None`, all tasks in their order.
        calibrator: Factor of the loss above, at least 0. Defaults to `0.6`, as in the paper.
        activation, dropout, kernel_initializer, kernel_regularizer: As for `mtl.Towers`, and for what is passed on.

    Input shape: `[batch, tasks, units]`, the output of a sharing layer.
    Output: dict from task name to `[batch, 1]`, or `[batch, num_classes]` for a multi-class task; always float32.

    Raises:
        ValueError: If the chain names an unknown task, one twice, or one that is not binary.

    Example:
        >>> towers = mtl.AITM({"click": (32,), "cart": (32,), "purchase": (16,)})
        >>> {name: tuple(p.shape) for name, p in towers(np.ones((8, 3, 16), "float32")).items()}
        {'click': (8, 1), 'cart': (8, 1), 'purchase': (8, 1)}

    Source: Xi et al., "Modeling the Sequential Dependence among Audience Multi-step Conversions with Multi-task
    Learning in Targeted Display Advertising", KDD 2021.
    """

    def __init__(self, tasks, chain=None, calibrator=0.6, **kwargs):
        super().__init__(tasks, **kwargs)
        self.chain = check_chain("chain", self.task_names if chain is None else chain, self.tasks, 0)
        self.calibrator = check_number("calibrator", calibrator)
        self.transfers = [
            Transfer(
                self.activation,
                self.dropout,
                self.kernel_initializer,
                self.kernel_regularizer,
                name=f"transfer_{number}",
                dtype=self.dtype_policy,
            )
            for number in range(len(self.chain) - 1)
        ]

    def _links(self):
        """For each task of the chain but the first: the index of the task before it, its own, and its transfer."""
        indexes = [self.task_names.index(name) for name in self.chain]
        return [(*link, transfer) for link, transfer in zip(pairwise(indexes), self.transfers, strict=True)]

    def reads(self, outputs):
        wanted = [self.output_names[output] for output in outputs]
        reached = max((place for place, name in enumerate(self.chain, 1) if name in wanted), default=0)
        before = [name for name in self.chain[:reached] if name not in wanted]
        return tuple(self.task_names.index(name) for name in (*wanted, *before))

    def _build_stacks(self, width):
        super()._build_stacks(width)
        widths = [task.hidden_units[-1] if task.hidden_units else width for _, task in self.tasks]
        for before, task, transfer in self._links():
            build_part(transfer, [(None, widths[before]), (None, widths[task])])

    def call(self, inputs, training=None):
        stacks = self._hidden_values(inputs, training)
        groups = [group for group, _, _ in self._parts()]
        values = {
            task: stack[:, position]  # [batch, units]
            for group, stack in zip(groups, stacks, strict=True)
            for position, task in enumerate(group)
        }
        for before, task, transfer in self._links():
            values[task] = transfer([values[before], values[task]], training=training)
        predictions = self._predictions([ops.stack([values[task] for task in group], axis=1) for group in groups])
        self._calibrate([predictions[name] for name in self.chain if name in predictions])
        return predictions

    def _calibrate(self, chain):
        if self.calibrator:
            for before, after in pairwise(chain):
                penalty = self.calibrator * mean_over_rows(ops.relu(after - before))
                self.add_loss(ops.cast(penalty, keras.backend.floatx()))  # which losses have

    def freeze(self, tasks=None):
        """Returns the given tasks (all by default, as indexes) and what they read, as `Towers.freeze` does."""
        return FrozenAITM.from_towers(self, check_indexes("tasks", tasks, len(self.output_names)))

    def get_config(self):
        return {**super().get_config(), "chain": list(self.chain), "calibrator": self.calibrator}


@register
class FrozenAITM(FrozenTowers, AITM):
    """The towers of the wanted tasks and of those before them in the chain, each with weights of its own.

    Made by `freeze` of `AITM`; of a task that is not wanted itself, the last layer is gone.
    """

    @classmethod
    def from_towers(cls, towers, outputs):
        tasks = towers.reads(outputs)
        kept = {towers.task_names[task] for task in tasks}
        chain = [name for name in towers.chain if name in kept]  # a beginning of the whole
        headless = tasks[len(outputs) :]
        frozen = super().from_towers(towers, tasks, headless, chain=chain, calibrator=towers.calibrator)
        transfers = towers.transfers[: len(frozen.transfers)]
        if isinstance(towers, FrozenTowers):
            frozen.transfers = list(transfers)
        else:
            for mine, theirs in zip(frozen.transfers, transfers, strict=True):
                mine.inherit(theirs)
        return frozen
