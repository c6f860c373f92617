"""Components of which each task learns which ones to use."""

from numbers import Real

from mtl_layers._checks import check_number, check_positive
from mtl_layers._expert_arguments import ExpertArguments
from mtl_layers._keras import deserialize, keras, register
from mtl_layers.experts import Experts
from mtl_layers.sharing._allocated_level import AllocatedLevel
from mtl_layers.sharing._allocation import Allocation
from mtl_layers.sharing._component_levels import ComponentLevels
from mtl_layers.sharing._component_stack import ComponentStack, check_distinct, layers_after, lists_of_layers
from mtl_layers.sharing.ple import units_per_level


@register
class GumbelMatrix(ExpertArguments, ComponentLevels):
    """Levels of components, and for every task a learned choice of the components that it uses.

    ```
    A[k, c] ~ Bernoulli(p[k, c])                      in training, anew for every batch; straight-through Gumbel-softmax
    A[k, c] = 1 if p[k, c] >= 0.5 else 0              in evaluation, prediction and exports
    y_k     = after(sum_c A[k, c] f_c(x_k) / sum_c A[k, c])         the average of the active components; 0 for none
    ```

    x_k is the layer's input at the first level, where a component is evaluated once for all tasks; above it, it is the
    output of task k below, and one call evaluates a component for all tasks. In training every component is evaluated,
    for the gradient of the allocation; one that no task uses gets no gradient itself, though momentum may move it.
    All levels are one layer, so that a budget is over all of them and `freeze` follows tasks through all of them.

    Args:
        num_tasks: Number of tasks, at least 1.
        num_components: Number of dense components, with an entry for each level; a number stands for one level.
        hidden_units: Units of the layers of a dense component: a tuple, or one for each level. Defaults to `(64,)`.
        components: In place of the two above, and of what says how dense components are made, any Keras layers
            (identity and pooling included): for each level a list of layers whose outputs have one shape; a list of
            layers stands for one level. Convolutions that differ in their weights alone run as one. Defaults to
            `None`.
        after: Keras layers to apply to each task's average, such as pooling, a normalisation or `Flatten`: a list with
            a layer or `None` for each level; a layer stands for one level. Defaults to `None`.
        p_init: Probability that a task uses a component, at the start; above 0 and below 1. 0.5 says least, deep
            networks may need 0.97. Defaults to `0.5`.
        temperature: Of the softmax that gives the gradient: a number, or a Keras schedule, called on the number of
            training batches so far. Defaults to `None`, `max(0.5, 50 / sqrt(batches + 1))`.
        logit_speed: The learning rate of the logits of p, as a multiple of the optimizer's; whatever the optimizer.
            Defaults to `None`: `num_tasks`, the factor of the paper, where a batch has the samples of one task. (There
            p has two logits that move apart, and so moves twice as fast under Adam: `2 * num_tasks` here.)
        budget: Share of the components of all levels that tasks may use on average without a penalty, in [0, 1].
            Defaults to `None`, no budget.
        budget_weight: The penalty is `budget_weight * max(0, mean of all p - budget)`. Defaults to `1.0`.
        entropy_weight: Weight of a penalty on the mean entropy of all p, in nats, which makes p decide. Defaults to
            `0.0`.
        allow_empty: Whether a task without any component is legal when frozen. Its output is then 0 for all inputs.
            Defaults to `False`.
        seed: Seed of the drawing, which depends on it and on the number of training batches alone: layers with one seed
            draw the same noise. Defaults to `None`, another one for each layer, which files keep with its weights.
        activation: Activation of dense components. Defaults to `"relu"`.
        dropout: Rate of dropout after every layer of dense components, in [0, 1). Defaults to `0.0`.
        use_bias: Whether dense components have biases. Defaults to `True`.
        kernel_initializer: Initializer of each dense component's kernels. Defaults to `"glorot_uniform"`.
        bias_initializer: Initializer of the biases. Defaults to `"zeros"`.
        kernel_regularizer: Regularizer of the kernels of dense components. Defaults to `None`.
        bias_regularizer: Regularizer of their biases. Defaults to `None`.

    Input shape: `[batch, ...]`; dense components also take one input per task, `[batch, num_tasks, dim]`.
    Output shape: `[batch, num_tasks, ...]`.

    Where each sample belongs to one task, call the layer as `layer(x, task=task)`, with an integer for the whole batch
    or an integer tensor with one for each row. It then gives `[batch, ...]`, each row for its own task. An integer that
    is no task's index is refused; in a tensor, too, or its row is NaN.

    Call it once in a model: every call adds the penalties anew and counts as a batch of training. In place of a call
    for each task, put the rows of all tasks into one, with a tensor as `task`. Where a model must call it n times,
    divide `budget_weight` and `entropy_weight` by n, and give a `temperature` for n times as many batches.

    Raises:
        ValueError: If an argument is out of range, the shapes of the components differ, or a task to be frozen has no
            component.

    Example:
        >>> layer = mtl.GumbelMatrix(num_tasks=3, num_components=(4, 4), hidden_units=(32,))          # two levels
        >>> tuple(layer(np.ones((8, 16), "float32")).shape)
        (8, 3, 32)
        >>> tuple(layer(np.ones((8, 16), "float32"), task=2).shape)
        (8, 32)
        >>> layer.probabilities()[0].shape
        (3, 4)

    Source: Maziarz et al., "Flexible Multi-task Networks by Learning Parameter Allocation", 2019 (Gumbel-Matrix).
    """

    def __init__(
        self,
        num_tasks,
        num_components=None,
        hidden_units=(64,),
        components=None,
        after=None,
        *,
        p_init=0.5,
        temperature=None,
        logit_speed=None,
        budget=None,
        budget_weight=1.0,
        entropy_weight=0.0,
        allow_empty=False,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_tasks = check_positive("num_tasks", num_tasks)
        if (num_components is None) == (components is None):
            raise ValueError(
                "One of `num_components` and `components` must be given; "
                f"received: num_components={num_components!r}, components={components!r}"
            )
        self.num_components = num_components
        self.hidden_units = hidden_units
        if components is not None:
            self._refuse_dense_arguments()
        self.p_init = _number("p_init", p_init, "above 0 and below 1", lambda p: 0 < p < 1)
        self.temperature = temperature
        if temperature is not None and not isinstance(temperature, keras.optimizers.schedules.LearningRateSchedule):
            self.temperature = _number("temperature", temperature, "above 0, a Keras schedule or None", lambda t: t > 0)
        self.logit_speed = logit_speed
        if logit_speed is not None:
            self.logit_speed = _number("logit_speed", logit_speed, "above 0, or None", lambda s: s > 0)
        self.budget = None if budget is None else check_number("budget", budget, maximum=1.0)
        self.budget_weight = check_number("budget_weight", budget_weight)
        self.entropy_weight = check_number("entropy_weight", entropy_weight)
        self.allow_empty = allow_empty
        self.seed = seed if seed is None else check_positive("seed", seed, minimum=0, maximum=2**31 - 1)
        self._make_levels(components, after)

    def _refuse_dense_arguments(self):
        """Arguments of dense components say nothing about components that are given."""
        defaults = {**ExpertArguments().expert_config(), "hidden_units": [64]}
        units = self.hidden_units
        given = {**self.expert_config(), "hidden_units": list(units) if isinstance(units, list | tuple) else units}
        if odd := [name for name, value in given.items() if value != defaults[name]]:
            raise ValueError(
                "`components` must come without arguments of dense components, which it does not have: give them to "
                f"the layers in it; received: {', '.join(f'{name}={given[name]!r}' for name in odd)}"
            )

    def _make_levels(self, components, after):
        if components is None:
            counts = self.num_components if isinstance(self.num_components, list | tuple) else (self.num_components,)
            if not counts:
                raise ValueError(
                    "`num_components` must have a number for each of one or more levels; "
                    f"received: num_components={self.num_components!r}"
                )
            counts = [check_positive("num_components", count) for count in counts]
            stacks = [
                Experts(count, units, dtype=self.dtype_policy, **self.expert_arguments())
                for count, units in zip(counts, units_per_level(self.hidden_units, len(counts)), strict=True)
            ]
        else:
            counts = [len(parts) for parts in lists_of_layers(components)]
            stacks = [ComponentStack(parts, dtype=self.dtype_policy) for parts in lists_of_layers(components)]
        after = layers_after(after, len(stacks))
        parts = [part for stack in stacks for part in getattr(stack, "parts", ())]
        check_distinct(parts + [each for each in after if each is not None])
        self.levels = [
            AllocatedLevel(stack, after_it, name=f"level_{depth}", dtype=self.dtype_policy)
            for depth, (stack, after_it) in enumerate(zip(stacks, after, strict=True))
        ]
        self.matrices = Allocation(
            [(self.num_tasks, count) for count in counts],
            self.p_init,
            speed=self.num_tasks if self.logit_speed is None else self.logit_speed,
            temperature=self.temperature,
            seed=self.seed,
            budget=self.budget,
            budget_weight=self.budget_weight,
            entropy_weight=self.entropy_weight,
            name="matrices",
        )
        self.entry_rank = 2 if components is None else None  # of one task's input; of other components `build` knows

    @property
    def components(self):
        """The layers given as components, a list for each level; None for dense ones."""
        return None if self.num_components else [list(level.components.parts) for level in self.levels]

    @property
    def after(self):
        """For each level the layer after it, or None."""
        return [level.after for level in self.levels]

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        components = self.components and [[serialize(part) for part in parts] for parts in self.components]
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "num_components": self.num_components,
            "hidden_units": self.hidden_units,
            "components": components,
            "after": [each and serialize(each) for each in self.after],
            "p_init": self.p_init,
            "temperature": serialize(self.temperature) if callable(self.temperature) else self.temperature,
            "logit_speed": self.logit_speed,
            "budget": self.budget,
            "budget_weight": self.budget_weight,
            "entropy_weight": self.entropy_weight,
            "allow_empty": self.allow_empty,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        def made(value):
            if isinstance(value, list | tuple):
                return [made(each) for each in value]
            return deserialize(value) if isinstance(value, dict) else value

        return cls(**{**config, **{name: made(config[name]) for name in ("components", "after", "temperature")}})


def _number(name, value, rule, legal):
    if isinstance(value, bool) or not isinstance(value, Real) or not legal(value):
        raise ValueError(f"`{name}` must be {rule}; received: {name}={value!r}")
    return float(value)
