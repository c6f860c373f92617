"""Gates, routes and allocations in TensorBoard, while `fit` runs."""

from functools import partial

import numpy as np

from mtl_layers._checks import check_repeatable
from mtl_layers._keras import keras
from mtl_layers._walk import layers_of
from mtl_layers.analysis._heat_map import draw_heat_map
from mtl_layers.analysis.allocation_figure import plot_allocation
from mtl_layers.analysis.gate_utilisation import gate_utilisation
from mtl_layers.analysis.route_figure import draw_route
from mtl_layers.sharing import GumbelMatrix, RouteSupernet
from mtl_layers.towers import Towers
from mtl_layers.towers.trace import trace


class TensorBoardLog(keras.callbacks.Callback):
    """Writes after every epoch, for TensorBoard, what the tasks of the model share.

    Of a mixture of experts or a route, if it is given `data`: the mean weight of every gate for every expert it reads,
    as scalars `gates/level_<l>/<gate>/expert_<e>` and as a heat map `gates/level_<l>`; gates of the last level go by
    the names of the tasks, where each has one. Of every `RouteSupernet`: the most likely route, as a picture
    `routes/<layer>` and as text `route_text/<layer>`. Of every `GumbelMatrix`: the probabilities, as a heat map
    `allocations/<layer>`.

    Scalars of routes, allocations and masks are in the logs that `mtl.RouteSearch`, `AllocationLog` and `MaskLog` write
    for all callbacks; `keras.callbacks.TensorBoard` with the same directory puts them beside these. Needs `tensorboard`
    and `matplotlib`.

    Args:
        log_dir: Directory of the event files.
        data: Rows to average the gates over, as for `mtl.analysis.gate_utilisation`; some thousands will do. Defaults
            to `None`: no gates.

    Raises:
        ValueError: If the model has nothing to show, gates are asked for and it has none, or `data` can be iterated
            over only once.

    Example:
        >>> log = mtl.analysis.TensorBoardLog("logs/mmoe", data=rows)       # model.fit(..., callbacks=[log])
    """

    def __init__(self, log_dir, data=None):
        super().__init__()
        self.log_dir = str(log_dir)
        self.data = None if data is None else check_repeatable("data", data)

    def set_model(self, model):
        super().set_model(model)
        kinds = (RouteSupernet, GumbelMatrix, Towers)
        self._supernets, self._allocations, towers = (
            [layer for layer in layers_of(model) if isinstance(layer, kind)] for kind in kinds
        )
        self._tasks = list(towers[0].task_names) if len(towers) == 1 else []
        if self.data is not None:
            sharing = trace(model).sharing
            if not hasattr(sharing, "gate_weights"):
                raise ValueError(
                    "`data` must be None for a model without gates; "
                    f"received: data for a model with {type(sharing).__name__}"
                )
        elif not self._supernets and not self._allocations:
            raise ValueError(
                "`model` must have a RouteSupernet or a GumbelMatrix, or gates and `data` to average them over; "
                "received: none of them"
            )

    def on_train_begin(self, logs=None):
        import tensorflow as tf

        self._summary = tf.summary
        self._writer = tf.summary.create_file_writer(self.log_dir)

    def on_epoch_end(self, epoch, logs=None):
        # JAX keeps the state of `fit` outside the variables until it is asked for.
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        with self._writer.as_default(step=epoch):
            if self.data is not None:
                self._write_gates()
            for layer in self._supernets:
                route = layer.derive()
                self._summary.text(f"route_text/{layer.name}", f"```\n{route}\n```")
                draw = partial(draw_route, queries=layer.pooling == "gate")
                self._draw(f"routes/{layer.name}", draw, route, names=self._names(route.num_tasks))
            for layer in self._allocations:
                names = self._names(layer.num_tasks)
                self._draw(f"allocations/{layer.name}", _draw_allocation, layer.probabilities(), names=names)
        self._writer.flush()

    def on_train_end(self, logs=None):
        self._writer.close()

    def _write_gates(self):
        levels = gate_utilisation(self.model, self.data)
        for depth, level in enumerate(levels):
            last = depth + 1 == len(levels)
            # Of a mixture that all tasks read there is one gate, and not one for each.
            named = last and len(self._tasks) == len(level.mean)
            names = self._tasks if named else [f"gate_{number}" for number in range(len(level.mean))]
            for gate, expert in np.argwhere(level.read):
                self._summary.scalar(f"gates/level_{depth}/{names[gate]}/expert_{expert}", level.mean[gate, expert])
            weights = np.where(level.read, level.mean, np.nan)
            self._draw(f"gates/level_{depth}", _draw_gates, weights, names=names)

    def _draw(self, tag, draw, *values, names):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), dpi=80, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        draw(*values, axes=figure.subplots(), task_names=names)
        canvas.draw()
        self._summary.image(tag, np.asarray(canvas.buffer_rgba())[None])  # [1, height, width, 4]

    def _names(self, num_tasks):
        return self._tasks if len(self._tasks) == num_tasks else [f"task {task}" for task in range(num_tasks)]


def _draw_gates(weights, axes, task_names):
    draw_heat_map(axes, weights, task_names, range(weights.shape[1]), "mean gate weight")
    axes.set_xlabel("expert")


def _draw_allocation(probabilities, axes, task_names):
    plot_allocation(probabilities, task_names, axes, "probability of use")
