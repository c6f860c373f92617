"""What all ways to balance tasks have in common."""

from mtl_layers._checks import names_of
from mtl_layers._keras import keras, ops


class Balancing(keras.layers.Layer):
    """Turns the losses of the tasks into the loss to train on; its state is kept in weights and saved with the model.

    A subclass says in `task_weights` what the losses are multiplied with, and in `update` how its state moves after a
    training step.
    """

    needs_task_gradients = False

    def __init__(self, tasks, **kwargs):
        # Losses and their weights are float32 whatever the policy of the model.
        super().__init__(**{"dtype": "float32", **kwargs})
        tasks = names_of("tasks", tasks)
        if not tasks or len(set(tasks)) != len(tasks) or any(not isinstance(t, str) or not t for t in tasks):
            raise ValueError(f"`tasks` must be distinct names of tasks; received: tasks={tasks!r}")
        self.tasks = tasks

    def build(self, input_shape=None):
        self.built = True

    def call(self, losses, training=None):
        losses = self.stack(losses)
        total = ops.sum(self.task_weights() * losses)
        if training:
            self.update(losses)
        return total

    def task_weights(self):
        """What the losses are multiplied with in the next step, `[tasks]`."""
        return ops.ones((len(self.tasks),), "float32")

    def update(self, losses):
        """Moves the state after a training step."""

    def stack(self, losses):
        """A dict of scalar losses as `[tasks]`."""
        if set(losses) != set(self.tasks):
            raise ValueError(f"`losses` must have exactly the tasks {list(self.tasks)}; received: {sorted(losses)}")
        return ops.stack([ops.cast(losses[task], "float32") for task in self.tasks])

    def add_state(self, name, value=0.0, dtype="float32", shape=None):
        """A weight that no optimizer moves; by default one number per task."""
        return self.add_weight(
            name=name,
            shape=(len(self.tasks),) if shape is None else shape,
            dtype=dtype,
            initializer=keras.initializers.Constant(value),
            trainable=False,
        )

    def compute_output_shape(self, input_shape):
        return ()

    def get_config(self):
        return {**super().get_config(), "tasks": list(self.tasks)}


def now(variable):
    """The value of a variable as a tensor: the variable itself may be read later, when it has been assigned to."""
    return ops.reshape(variable, variable.shape)
