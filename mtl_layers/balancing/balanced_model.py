"""A functional model that is trained on a balance of its tasks' losses."""

from mtl_layers._keras import BACKEND, deserialize, keras, ops, register
from mtl_layers._walk import layers_of
from mtl_layers.balancing._balancing import Balancing
from mtl_layers.towers import Towers


@register
class BalancedModel(keras.Model):
    """A functional model whose `fit` weights the losses of its tasks as `balancing` says.

    Everything else is as with `keras.Model(inputs, outputs)`, of which it is a kind: compile, fit, callbacks, saving.
    The balancing's state is part of the model's weights, and so of its files, checkpoints and backups; Keras' legacy
    HDF5 format has no place for it. `mtl.freeze` and `serving.export` leave the balancing behind.

    Args:
        inputs: As for `keras.Model`.
        outputs: Dict from task name to output, as `mtl.Towers` gives it.
        balancing: `mtl.balancing.DecayingWeights`, `UncertaintyWeighting`, `DynamicWeightAverage`, `GradNorm` or
            `PCGrad`, with those tasks among `outputs` that have a loss.

    Logs: `loss`, what was trained on, regularization included; and for each task `<task>_loss`, without its weight, and
    `<task>_weight`; all means over the batches of the epoch, in which a batch without a row of a task counts as 0.
    `val_loss` has the weights that training has come to, and cannot be compared between epochs; `val_<task>_loss` can,
    over the same batches. Metrics are `click_auc` and the like on every Keras, and `auc` where the model has one
    output. Lists from `evaluate`, `train_on_batch` and `test_on_batch` begin with these numbers, `loss` first.

    Compile it with `mtl.losses.per_task`. The rules for missing labels are those of its losses.

    Raises:
        ValueError: If `balancing` is none, has tasks that `outputs` does not, or names a layer that the model does not
            have; if it needs the gradients of tasks on another backend than TensorFlow, or an optimizer that does not
            scale losses; if several replicas are to train; if losses are no dict of `keras.losses.Loss` with the tasks
            of `balancing`, or come with `loss_weights`; if labels or a dict of sample weights lack one of these tasks;
            if it is saved in the HDF5 format.

    Example:
        >>> uncertainty = mtl.balancing.UncertaintyWeighting(["click", "watch_time"], regression=["watch_time"])
        >>> balanced = mtl.balancing.BalancedModel(model.input, model.output, uncertainty)
        >>> balanced.compile("adam", **mtl.losses.per_task({"click": "binary_crossentropy", "watch_time": "mse"}))
        >>> labels = {"click": np.ones(5, "float32"), "watch_time": np.ones(5, "float32")}
        >>> sorted(balanced.fit(rows, labels, verbose=0).history)
        ['click_loss', 'click_weight', 'loss', 'watch_time_loss', 'watch_time_weight']
    """

    def __init__(self, inputs, outputs, balancing, **kwargs):
        if not isinstance(balancing, Balancing):
            raise ValueError(
                f"`balancing` must be one such as mtl.balancing.PCGrad(tasks); received: balancing={balancing!r}"
            )
        names = list(outputs) if isinstance(outputs, dict) else []
        unknown = [task for task in balancing.tasks if task not in names]
        if unknown:
            raise ValueError(
                f"`balancing` must have tasks among `outputs`, a dict; received: unknown {unknown} for outputs={names}"
            )
        if balancing.needs_task_gradients and BACKEND != "tensorflow":
            raise ValueError(
                f"`balancing` must be DecayingWeights, UncertaintyWeighting or DynamicWeightAverage on the {BACKEND} "
                f"backend; received: {type(balancing).__name__}, which needs the gradients of each task"
            )
        super().__init__(inputs, outputs, **kwargs)
        self.output_names = sorted(names)  # Keras 2 would log metrics by the name of the layer that they come from
        self.balancing = balancing
        if not balancing.built:
            balancing.build(None)
        logged = ["loss", *(f"{task}_{what}" for what in ("loss", "weight") for task in balancing.tasks)]
        self.logged = [keras.metrics.Mean(name=name) for name in logged]
        self._is_training = True
        self._shared_layers()  # or a wrong name would be found out by `fit` alone

    def compile(self, optimizer="rmsprop", loss=None, loss_weights=None, **kwargs):
        tasks = list(self.balancing.tasks)
        if loss_weights is not None:
            raise ValueError(
                "`loss_weights` must be None, since `balancing` weights the losses; "
                f"received: loss_weights={loss_weights!r}"
            )
        legal = isinstance(loss, dict) and set(loss) == set(tasks)
        if not legal or not all(isinstance(each, keras.losses.Loss) for each in loss.values()):
            raise ValueError(
                f"`loss` must be a dict with a keras.losses.Loss for each of the tasks {tasks}, as "
                f"**mtl.losses.per_task({{task: loss, ...}}) gives it; received: loss={loss!r}"
            )
        replicas = getattr(getattr(self, "distribute_strategy", None), "num_replicas_in_sync", 1)
        if replicas > 1:
            raise ValueError(
                "the strategy of a balanced model must have one replica, since loss weights follow the losses of whole "
                f"batches; received: {replicas} replicas"
            )
        super().compile(optimizer, loss, **kwargs)
        scales = isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer)
        scales = scales or getattr(self.optimizer, "loss_scale_factor", None) is not None
        if self.balancing.needs_task_gradients and scales:
            raise ValueError(
                f"`optimizer` must not scale the loss, as for float16, under {type(self.balancing).__name__}; "
                "mixed_bfloat16 needs no scaling"
            )

    @property
    def metrics(self):
        """Those of the losses first; Keras 3's own `loss`, of which they have the name, not at all."""
        logged = getattr(self, "logged", [])  # Keras asks before there are any
        return [*logged, *(each for each in super().metrics if each.name != "loss" and each not in logged)]

    def save(self, filepath, *arguments, **kwargs):
        if str(filepath).endswith((".h5", ".hdf5")) or kwargs.get("save_format") == "h5":
            raise ValueError(
                "`filepath` must not be of the legacy HDF5 format, which loses the balancing's state: save `.keras`; "
                f"received: filepath={str(filepath)!r}"
            )
        super().save(filepath, *arguments, **kwargs)

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def task_losses(self, y, y_pred, sample_weight=None):
        """The loss of each task, without its weight, as a dict of scalars."""
        missing = [task for task in self.balancing.tasks if not isinstance(y, dict) or task not in y]
        if missing:
            raise ValueError(f"labels must be a dict with every task; missing: {missing}")
        weights = sample_weight if isinstance(sample_weight, dict) else dict.fromkeys(y, sample_weight)
        missing = [task for task in self.balancing.tasks if task not in weights]
        if missing:  # Keras 2 would train these tasks without weights
            raise ValueError(
                "`sample_weight` must be a dict with every task, or an array for all; "
                f"received: {sorted(weights)}, missing: {missing}"
            )
        return {task: self.loss[task](y[task], y_pred[task], weights[task]) for task in self.balancing.tasks}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        losses = self.task_losses(y, y_pred, sample_weight)
        weights = self.balancing.task_weights()
        total = self.balancing(losses, training=self._is_training) + self._penalties()
        self._log(total, self.balancing.stack(losses), weights)
        return total

    def train_step(self, *arguments):
        if self.balancing.needs_task_gradients:
            return self._step_along_task_gradients(*arguments)
        return super().train_step(*arguments)

    def test_step(self, *arguments):
        self._is_training = False  # not every Keras tells `compute_loss`
        try:
            return super().test_step(*arguments)
        finally:
            self._is_training = True

    def _step_along_task_gradients(self, data):
        import tensorflow as tf

        from mtl_layers.balancing._task_gradients import TaskGradients

        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape(persistent=True) as tape:
            y_pred = self(x, training=True)
            named = self.task_losses(y, y_pred, sample_weight)
            penalties = self._penalties()
        losses = self.balancing.stack(named)
        total = tf.reduce_sum(self.balancing.task_weights() * losses) + penalties
        variables = self.trainable_weights
        layers, own = self._shared_layers()
        may_share = {id(weight) for layer in layers for weight in layer.trainable_weights}
        may_share -= {id(weight) for layer in own for weight in layer.trainable_weights}
        parted = [layer.shared_entries() for layer in layers if hasattr(layer, "shared_entries")]
        entries = {id(weight): which for pairs in parted for weight, which in pairs}
        gradients = [
            TaskGradients(each, variable, id(variable) in may_share, entries.get(id(variable)))
            for *each, variable in zip(*(tape.gradient(named[t], variables) for t in named), variables, strict=True)
        ]
        if not any(each.shared for each in gradients):
            raise ValueError("`balancing` must have weights to work on that two tasks share; received: none")
        combined, weights = self.balancing.combine(losses, gradients)
        if self.losses:
            of_penalties = tape.gradient(penalties, variables)
            combined = [_added(*both) for both in zip(combined, of_penalties, strict=True)]
        self.optimizer.apply_gradients(zip(combined, variables, strict=True))
        self._log(total, losses, weights)
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def _shared_layers(self):
        """The layers whose weights tasks may share, or the one that `balancing` names; and in them the tasks' own."""
        name = getattr(self.balancing, "layer", None)
        layers = [layer for layer in layers_of(self) if layer is not self.balancing]
        if name is None:
            return layers, [layer for layer in layers if isinstance(layer, Towers)]
        named = [layer for layer in layers if layer.name == name]
        if not named:
            raise ValueError(
                f"`layer` must be the name of a layer of the model, one of {[layer.name for layer in layers]}; "
                f"received: layer={name!r}"
            )
        return named, []

    def _penalties(self):
        return ops.cast(sum(self.losses), "float32")

    def _log(self, total, losses, weights):
        tasks = range(len(self.balancing.tasks))
        values = [total, *(losses[k] for k in tasks), *(weights[k] for k in tasks)]
        for metric, value in zip(self.logged, values, strict=True):
            metric.update_state(value)

    def get_config(self):
        functional = keras.Model(self.input, self.output, name=self.name)
        return {
            "functional": functional.get_config(),
            "balancing": keras.saving.serialize_keras_object(self.balancing),
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        functional = keras.Model.from_config(config["functional"], custom_objects=custom_objects)
        balancing = deserialize(config["balancing"], custom_objects=custom_objects)
        return cls(functional.input, functional.output, balancing, name=functional.name, trainable=config["trainable"])


def _added(gradient, penalty):
    if gradient is None or penalty is None:
        return penalty if gradient is None else gradient
    return ops.convert_to_tensor(gradient) + ops.convert_to_tensor(penalty)  # dense, where either is
