"""The score that rows are ranked by."""

from numbers import Real

from mtl_layers._checks import check_finite
from mtl_layers._keras import build_part, deserialize, keras, ops, register
from mtl_layers._trainable import hand_down

# exp of it is finite in float32, and so is one over it.
LARGEST_LOG = 80.0


@register
def log1p(values):
    """`log(1 + x)` where x is above 0, else 0: a function of lengths, prices or counts for `ScoreFusion`.

    Example:
        >>> [round(float(y), 3) for y in mtl.towers.log1p(np.array([-1.0, 0.0, 59.0]))]
        [0.0, 0.0, 4.094]
    """
    return ops.log1p(ops.relu(values))


@register
class ScoreFusion(keras.layers.Layer):
    """The ranking score: a product of powers of predictions, and of functions of other features.

    ```
    score = product over k of max(f_k(x_k), epsilon) ^ w_k
    ```

    Computed through logarithms in float32; e^-80 and e^80 bound the score.

    The weights w_k are tuned online, long after training. So they are no part of the model: export it with
    `serving.export(model, directory, score=fusion)`, and it has a signature `score` with the weights of this layer, and
    `score_with_weights`, which takes them from each request.

    Args:
        weights: Dict from name to weight, any number that is finite in float32. Names are those of tasks, and of
            features of the model.
        functions: Dict from some of these names to f_k: an activation, `mtl.towers.log1p`, or a Keras layer. Defaults
            to `None`; where there is no function, values are taken as they are.
        epsilon: Smallest value that counts, positive. It keeps the score and its gradient finite where a probability
            or a length is 0, for negative weights, too. Defaults to `1e-7`.

    Call arguments: dict from name to `[batch, 1]`, with every name in `weights` and perhaps others; `weights`, a dict
    from every name to `[batch, 1]`, which stand in for the layer's own. Defaults to `None`.
    Output shape: `[batch, 1]`, float32.

    Raises:
        ValueError: If a weight is not finite, a function or a new weight has an unknown name, or an input or a weight
            in a call is missing or not `[batch, 1]`.

    Example:
        >>> fusion = mtl.ScoreFusion({"vtr": 0.5, "vcr": 2.0, "length": 1.0}, functions={"length": mtl.towers.log1p})
        >>> row = {"vtr": np.array([[0.25]]), "vcr": np.array([[0.5]]), "length": np.array([[0.0]])}
        >>> f"{float(fusion(row)[0, 0]):.3g}"                              # 0.25 ** 0.5 * 0.5 ** 2.0 * epsilon
        '1.25e-08'
        >>> fusion.assign({"length": 0.0})
        >>> f"{float(fusion(row)[0, 0]):.3g}"
        '0.125'

    Source: Tang et al., RecSys 2020 (PLE), the score of the ranking system.
    """

    def __init__(self, weights, functions=None, epsilon=1e-7, **kwargs):
        super().__init__(autocast=False, **kwargs)  # probabilities and lengths stay as exact as they come
        if not isinstance(weights, dict) or not weights:
            raise ValueError(f"`weights` must be a dict from names to numbers; received: weights={weights!r}")
        self.names = tuple(weights)
        self._check_weights(weights)
        functions = dict(functions or {})
        self._check_names("functions", functions)
        self.functions = [_as_layer(functions.get(name)) for name in self.names]
        if not isinstance(epsilon, Real) or not 0 < epsilon < 1:
            raise ValueError(f"`epsilon` must be in (0, 1); received: epsilon={epsilon!r}")
        self.epsilon = float(epsilon)
        self.powers = self.add_weight(
            name="powers", shape=(len(self.names),), initializer="zeros", dtype="float32", trainable=False
        )
        self.assign(weights)

    @property
    def task_weights(self):
        """The weights in force, as a dict from name to number."""
        values = ops.convert_to_numpy(self.powers + 0.0)
        return {name: float(str(value)) for name, value in zip(self.names, values, strict=True)}  # 0.3, not 0.30000001

    def assign(self, weights):
        """Changes the weights that the dict names; the others stay.

        Raises:
            ValueError: If a name is unknown, or a weight not finite.
        """
        self._check_weights(weights)
        self.powers.assign([{**self.task_weights, **weights}[name] for name in self.names])

    def _check_weights(self, weights):
        self._check_names("weights", weights)
        for name, weight in weights.items():
            check_finite(f"weights[{name!r}]", weight)

    def _check_names(self, argument, given):
        unknown = [name for name in given if name not in self.names]
        if unknown:
            raise ValueError(f"`{argument}` must be for names among {list(self.names)}; received: {unknown}")

    def _check_shapes(self, argument, shapes):
        for name in self.names:
            shape = tuple(shapes[name]) if name in shapes else None
            if shape is None or len(shape) != 2 or shape[1] != 1:
                received = f"no {name!r} in {sorted(shapes)}" if shape is None else f"{name!r} of shape {shape}"
                raise ValueError(
                    f"`{argument}` must be a dict with a [batch, 1] for each of {list(self.names)}; "
                    f"received: {received}"
                )

    def build(self, input_shape):
        self._check_shapes("inputs", input_shape)
        for name, function in zip(self.names, self.functions, strict=True):
            if not function.built:
                build_part(function, tuple(input_shape[name]))
        hand_down(self)
        self.built = True

    def call(self, inputs, weights=None):
        # `build` has seen the inputs of one call only, and no weights.
        for argument, given in (("inputs", inputs), ("weights", weights)):
            if given is not None:
                self._check_shapes(argument, {name: getattr(each, "shape", ()) for name, each in given.items()})
        values = [
            function(ops.cast(inputs[name], "float32"))
            for name, function in zip(self.names, self.functions, strict=True)
        ]
        logs = ops.log(ops.maximum(ops.concatenate(values, axis=-1), self.epsilon))  # [batch, names]
        powers = self.powers if weights is None else ops.concatenate([weights[name] for name in self.names], axis=-1)
        score = ops.sum(ops.cast(powers, "float32") * logs, axis=-1, keepdims=True)
        return ops.exp(ops.clip(score, -LARGEST_LOG, LARGEST_LOG))  # [batch, 1]

    def compute_output_shape(self, input_shape):
        return (input_shape[self.names[0]][0], 1)

    def get_config(self):
        return {
            **super().get_config(),
            "weights": list(map(list, self.task_weights.items())),  # a store may sort the keys of a dict
            "functions": {
                name: keras.saving.serialize_keras_object(function)
                for name, function in zip(self.names, self.functions, strict=True)
            },
            "epsilon": self.epsilon,
        }

    @classmethod
    def from_config(cls, config):
        functions = {name: deserialize(function) for name, function in config["functions"].items()}
        return cls(**{**config, "weights": dict(config["weights"]), "functions": functions})


def _as_layer(function):
    return function if isinstance(function, keras.layers.Layer) else keras.layers.Activation(function, dtype="float32")
