"""Towers of a chain of events, with the probabilities over the entire space."""

import math

from mtl_layers._checks import check_indexes
from mtl_layers._keras import register
from mtl_layers.towers._chain import check_chain
from mtl_layers.towers.towers import FrozenTowers, Towers


@register
class ESMM(Towers):
    """Towers whose predictions are conditional on the event before, and their products along chains of events.

    ```
    p_k     = sigmoid(tower_k(h_k))                 P(event k | the event before it)
    p_chain = p_1 * p_2 * ... * p_n                 P(all events of the chain), for every row
    ```

    Whether a row ends in a purchase is known for clicked rows only, but its rate is wanted for all rows. So the
    conditional probability has no loss of its own: it is trained through the product, whose label (clicked and bought)
    every row has. Its own label, which Keras wants all the same, is for metrics: missing where the event before it is.
    Products are of probabilities, in float32: no logarithm that could be infinite, and bounded gradients. Keras' binary
    cross-entropy clips them at 1e-7: a positive row whose product is below that has a gradient of zero.

    Args:
        tasks: As for `mtl.Towers`: dict from the name of a conditional probability to its tower.
        chains: Dict from the name of a probability over the entire space to its chain, a tuple of at least two binary
            tasks in the order of the events. Chains may have a beginning in common.
        activation, dropout, kernel_initializer, kernel_regularizer: As for `mtl.Towers`.

    Input shape: `[batch, tasks, units]`, the output of a sharing layer.
    Output: dict from the name of each task, then of each chain, to `[batch, 1]`; always float32.

    Raises:
        ValueError: If a chain names an unknown task, one twice, or one that is not binary, or has the name of a task.

    Example:
        >>> towers = mtl.ESMM({"ctr": (64,), "cvr": (64,)}, chains={"ctcvr": ("ctr", "cvr")})
        >>> p = towers(np.ones((8, 2, 16), "float32"))
        >>> list(p)
        ['ctr', 'cvr', 'ctcvr']
        >>> bool(np.allclose(p["ctcvr"], p["ctr"] * p["cvr"]))
        True
        >>> losses = {"ctr": "binary_crossentropy", "cvr": None, "ctcvr": "binary_crossentropy"}
        >>> arguments = mtl.losses.per_task(losses, metrics={"cvr": ["AUC"]}, missing_value=float("nan"))

    Source: Ma et al., "Entire Space Multi-Task Model", SIGIR 2018.
    """

    def __init__(self, tasks, chains, **kwargs):
        super().__init__(tasks, **kwargs)
        names = tuple(chains) if isinstance(chains, dict) else (None,)
        if any(not isinstance(name, str) or not name or name in self.task_names for name in names):
            raise ValueError(
                "`chains` must be a dict from names, other than those of tasks, to tuples of tasks; "
                f"received: chains={chains!r}, tasks={list(self.task_names)}"
            )
        self.chains = tuple((name, check_chain(f"chains[{name!r}]", chains[name], self.tasks, 2)) for name in names)

    @property
    def output_names(self):
        return (*super().output_names, *(name for name, _ in self.chains))

    def reads(self, outputs):
        chains = dict(self.chains)
        wanted = (self.output_names[output] for output in outputs)
        names = dict.fromkeys(task for name in wanted for task in chains.get(name, (name,)))
        return tuple(self.task_names.index(name) for name in names)

    def call(self, inputs, training=None):
        probabilities = super().call(inputs, training=training)
        for name, (first, *others) in self.chains:
            probabilities[name] = math.prod((probabilities[task] for task in others), start=probabilities[first])
        return {name: probabilities[name] for name in self.output_names}

    def compute_output_shape(self, input_shape):
        shapes = super().compute_output_shape(input_shape)
        shapes.update({name: shapes[chain[0]] for name, chain in self.chains})
        return {name: shapes[name] for name in self.output_names}

    def freeze(self, tasks=None):
        """Returns the same for the given predictions (all by default, as indexes), as `Towers.freeze` does."""
        return FrozenESMM.from_towers(self, check_indexes("tasks", tasks, len(self.output_names)))

    def get_config(self):
        return {**super().get_config(), "chains": [[name, list(chain)] for name, chain in self.chains]}

    @classmethod
    def from_config(cls, config):
        return super().from_config({**config, "chains": dict(config["chains"])})


@register
class FrozenESMM(FrozenTowers, ESMM):
    """The towers that the wanted probabilities need, each with weights of its own. Made by `freeze` of `ESMM`.

    Args:
        tasks, chains: As for `ESMM`, without what is not needed.
        outputs: Names of the probabilities wanted; a factor of one of them may not be among them.
    """

    def __init__(self, tasks, chains, outputs, **kwargs):
        super().__init__(tasks, chains, **kwargs)
        self.outputs = tuple(outputs)

    @classmethod
    def from_towers(cls, towers, outputs):
        wanted = [towers.output_names[output] for output in outputs]
        chains = {name: chain for name, chain in towers.chains if name in wanted}
        return super().from_towers(towers, towers.reads(outputs), chains=chains, outputs=wanted)

    @property
    def output_names(self):
        return self.outputs

    def get_config(self):
        return {**super().get_config(), "outputs": list(self.outputs)}
