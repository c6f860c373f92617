"""A trained model with its routes fixed and everything gone that the wanted tasks do not need."""

from collections.abc import Iterable

from mtl_layers._keras import keras
from mtl_layers.freeze_report import FreezeReport, FrozenLayer
from mtl_layers.towers.task_wise import TaskWise
from mtl_layers.towers.trace import refuse_changed_layer, trace


def freeze(model, tasks=None):
    """Returns the model for the given tasks, with every part removed that they do not need.

    The sharing layer and the `Towers` are replaced by their frozen forms, which start with the trained weights; all
    layers below and between them, above all the embeddings, are the model's own and not copies. Freezing a frozen model
    for fewer tasks copies nothing: both models then share every variable.

    Args:
        model: A built functional model whose outputs are those of one `Towers` layer, or some of them. The towers read
            a sharing layer, with nothing between but layers that treat all tasks alike: Keras' own normalisations of
            the last axis, dropout and noise, activations, `Dense` and `Rescaling`.
        tasks: Names of the tasks to keep, in the order wanted; of a chain of tasks, whatever they read stays, too.
            Defaults to `None`, all tasks.

    Returns:
        A functional model from the same inputs to a dict from task name to prediction, equal to `model`'s to 1e-6 in
        float32, and not compiled. Its attribute `freeze_report` says what was removed: parameters, multiply-adds,
        experts, gates, towers. The report prints as a table; it is not saved with the model.

    Raises:
        ValueError: If a task is unknown, the model's class has a `call` of its own, a subclass of a layer one that the
            `freeze` it inherits does not know, or the outputs cannot be traced to a `Towers` layer and that to a
            sharing layer. A model without `Towers` can be exported, but not frozen.

    Example:
        >>> only_click = mtl.freeze(model, tasks=["click"])
        >>> list(only_click.predict(rows, verbose=0))
        ['click']
    """
    traced = trace(model)
    towers, sharing = traced.towers, traced.sharing
    refuse_changed_layer(sharing)
    refuse_changed_layer(towers)
    if isinstance(tasks, str):
        raise ValueError(f"`tasks` must be a list of names, such as [{tasks!r}]; received: tasks={tasks!r}")
    known = tuple(name for name in towers.output_names if name in model.output)
    names = known if tasks is None else tuple(tasks if isinstance(tasks, Iterable) else ())
    if not names or len(set(names)) != len(names) or not set(names) <= set(known):
        raise ValueError(f"`tasks` must be distinct names among {list(known)}; received: tasks={tasks!r}")
    wanted = tuple(towers.output_names.index(name) for name in names)
    frozen_sharing, frozen_towers = sharing.freeze(towers.reads(wanted)), towers.freeze(wanted)
    for source, made in ((sharing, frozen_sharing), (towers, frozen_towers)):
        if not source.trainable:
            made.trainable = False
    values = frozen_sharing(traced.sharing_reads)
    outputs = frozen_towers(TaskWise(traced.between)(values) if traced.between else values)
    frozen = keras.Model(model.input, outputs, name=f"{model.name}_frozen")
    layers = (
        FrozenLayer(sharing, frozen_sharing, traced.sharing_reads),
        FrozenLayer(towers, frozen_towers, traced.towers_read),
    )
    # Not of the model, which may hold what no layer does: the state of a balancing.
    others = sum(layer.count_params() for layer in model.layers if layer is not sharing and layer is not towers)
    frozen.freeze_report = FreezeReport(layers, others)
    return frozen
