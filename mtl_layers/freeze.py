"""A trained model with its routes fixed and everything gone that the wanted tasks do not need."""

from mtl_layers._keras import keras
from mtl_layers.freeze_report import FreezeReport, FrozenLayer
from mtl_layers.towers import Towers
from mtl_layers.towers.task_wise import KINDS, TaskWise, treats_tasks_alike


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
        A functional model from the same inputs to a dict from task name to prediction, equal to `model`'s to 1e-6. Its
        attribute `freeze_report` says what was removed: parameters, multiply-adds, experts, gates, towers. The report
        prints as a table; it is not saved with the model.

    Raises:
        ValueError: If a task is unknown, or the outputs cannot be traced to a `Towers` layer and that to a sharing
            layer. A model without `Towers` can be exported, but not frozen.

    Example:
        >>> only_click = mtl.freeze(model, tasks=["click"])
        >>> list(only_click.predict(rows, verbose=0))
        ['click']
    """
    towers, between, sharing = trace(model)
    if isinstance(tasks, str):
        raise ValueError(f"`tasks` must be a list of names, such as [{tasks!r}]; received: tasks={tasks!r}")
    known = tuple(name for name in towers.output_names if name in model.output)
    names = known if tasks is None else tuple(tasks)
    if not names or len(set(names)) != len(names) or not set(names) <= set(known):
        raise ValueError(f"`tasks` must be distinct names among {list(known)}; received: tasks={tasks!r}")
    wanted = tuple(towers.output_names.index(name) for name in names)
    frozen_sharing, frozen_towers = sharing.freeze(towers.reads(wanted)), towers.freeze(wanted)
    for source, made in ((sharing, frozen_sharing), (towers, frozen_towers)):
        if not source.trainable:
            made.trainable = False
    values = frozen_sharing(sharing.input)
    outputs = frozen_towers(TaskWise(between)(values) if between else values)
    frozen = keras.Model(model.input, outputs, name=f"{model.name}_frozen")
    layers = FrozenLayer(sharing, frozen_sharing), FrozenLayer(towers, frozen_towers)
    # Not of the model, which may hold what no layer does: the state of a balancing.
    others = sum(layer.count_params() for layer in model.layers if layer is not sharing and layer is not towers)
    frozen.freeze_report = FreezeReport(layers, others)
    return frozen


def trace(model):
    """The model's `Towers`, the layers under it that treat all tasks alike, the sharing layer under those.

    A model that cannot be traced is refused.
    """
    refusal = "`model` must be a functional model whose outputs are those of one mtl.Towers on a sharing layer"
    if not isinstance(model, keras.Model) or not isinstance(getattr(model, "output", None), dict):
        raise ValueError(f"{refusal}; received: {model!r}, whose outputs are not a dict")
    all_towers = [layer for layer in model.layers if isinstance(layer, Towers)]
    if len(all_towers) != 1:
        raise ValueError(f"{refusal}; received: a model with {len(all_towers)} Towers layers")
    towers = all_towers[0]
    # Keras 3 hands out a layer's dict of outputs as a list in the order of sorted keys, or bare if there is one.
    made = towers.output
    made = [made[name] for name in sorted(made)] if isinstance(made, dict) else _listed(made)
    named = dict(zip(sorted(towers.output_names), map(id, made), strict=True))
    if any(named.get(name) != id(tensor) for name, tensor in model.output.items()):
        raise ValueError(
            f"{refusal}; received: outputs {list(model.output)} that are not exactly those of {towers.name!r}. "
            "What comes after the towers would vanish: freeze the model without it and apply it to the result"
        )
    between, read = [], towers.input
    while True:
        layer = _maker(model, read)
        if layer is None:
            raise ValueError(f"{refusal}; received: {towers.name!r} reads what no layer of the model alone has made")
        if hasattr(layer, "freeze"):
            return towers, between, layer
        if not isinstance(layer, TaskWise) and not treats_tasks_alike(layer):
            raise ValueError(
                f"{refusal}; received: {layer.name!r}, a {type(layer).__name__}, under {towers.name!r}. Between the "
                f"two may stand what treats all tasks alike: {', '.join(KINDS)}, along the last axis"
            )
        between = (layer.layers if isinstance(layer, TaskWise) else [layer]) + between
        read = layer.input


def _maker(model, tensors):
    """The layer whose outputs these are, all of them; None if there is none."""
    wanted = set(map(id, _listed(tensors)))
    for layer in model.layers:
        # A layer that the model calls several times has no `output` in Keras 2.
        if set(map(id, _listed(getattr(layer, "output", [])))) == wanted:
            return layer
    return None


def _listed(tensors):
    return tensors if isinstance(tensors, list) else [tensors]
