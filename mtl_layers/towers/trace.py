"""Which `Towers` a model has, and which sharing layer under them."""

from dataclasses import dataclass

from mtl_layers._keras import keras
from mtl_layers.towers.task_wise import KINDS, TaskWise, treats_tasks_alike
from mtl_layers.towers.towers import Towers


@dataclass(frozen=True)
class Traced:
    """The `Towers` of a model, the layers under it that treat all tasks alike, and the sharing layer under those.

    `towers_read` and `sharing_reads` are the symbolic tensors, one or a list, that they read in this model.
    """

    towers: Towers
    towers_read: object
    between: list
    sharing: keras.layers.Layer
    sharing_reads: object


def trace(model):
    """Follows a model from its outputs down to its sharing layer; one that cannot be traced is refused."""
    refusal = "`model` must be a functional model whose outputs are those of one mtl.Towers on a sharing layer"
    if not isinstance(model, keras.Model) or not isinstance(getattr(model, "output", None), dict):
        raise ValueError(
            f"{refusal}; received: {model!r}, whose outputs are not a dict. One that is made without names, or "
            "Sequential, does not say which output is whose: make it by keras.Model(inputs, towers(sharing(inputs)))"
        )
    refuse_own_call(model)
    all_towers = [layer for layer in model.layers if isinstance(layer, Towers)]
    if len(all_towers) != 1:
        raise ValueError(f"{refusal}; received: a model with {len(all_towers)} Towers layers")
    towers = all_towers[0]
    # A layer hands out the entries of a dict in the order of sorted keys.
    names = dict(enumerate(sorted(towers.output_names)))
    makers = {name: tensor._keras_history for name, tensor in model.output.items()}
    nodes = {number for _, number, _ in makers.values()}
    received = f"received: outputs {list(model.output)} that are not exactly those of {towers.name!r}"
    if len(nodes) > 1 or any(layer is not towers for layer, _, _ in makers.values()):
        raise ValueError(
            f"{refusal}; {received}. What comes after the towers would vanish: freeze the model without it and apply "
            "it to what the frozen model gives when it is called, `frozen(inputs)`"
        )
    if other := {name: names[place] for name, (_, _, place) in makers.items() if names[place] != name}:
        raise ValueError(f"{refusal}; {received}, which has other names for them: {other}. Give mtl.Towers the names")
    read = towers_read = _inputs(towers, *nodes)
    between = []
    while True:
        layer, number = _maker(read)
        if layer is None:
            raise ValueError(f"{refusal}; received: {towers.name!r} reads what no layer of the model alone has made")
        read = _inputs(layer, number)
        if hasattr(layer, "freeze"):
            return Traced(towers, towers_read, between, layer, read)
        if not isinstance(layer, TaskWise) and not treats_tasks_alike(layer):
            raise ValueError(
                f"{refusal}; received: {layer.name!r}, a {type(layer).__name__}, under {towers.name!r}. Between the "
                f"two may stand what treats all tasks alike: {', '.join(KINDS)}, along the last axis, with an "
                "activation of Keras, without a `noise_shape` and without a number for each task"
            )
        between = (layer.layers if isinstance(layer, TaskWise) else [layer]) + between


def refuse_own_call(model):
    """Refuses a functional model whose class does not compute what leads from its inputs to its outputs."""
    owner = next(each for each in type(model).__mro__ if "call" in vars(each))
    if owner.__module__.split(".")[0] != keras.__name__:
        raise ValueError(
            "`model` must be computed by its layers alone, or what its class adds would vanish; "
            f"received: {model.name!r}, a {owner.__name__} with a `call` of its own. Put what that does into a layer"
        )


def refuse_changed_layer(layer):
    """Refuses a layer of this package whose subclass has a `call` that the `freeze` it inherits does not know."""
    kinds = type(layer).__mro__
    calls, freezes = (next(each for each in kinds if name in vars(each)) for name in ("call", "freeze"))
    ours = __name__.split(".")[0]
    if freezes.__module__.split(".")[0] == ours and calls.__module__.split(".")[0] != ours:
        raise ValueError(
            f"`model` must have layers that `freeze` knows, or what they add would vanish; received: {layer.name!r}, a "
            f"{calls.__name__} with a `call` of its own and the `freeze` of {freezes.__name__}. Give it a `freeze`, "
            "too, or put what it adds into a layer before the sharing layer or after the frozen model"
        )


def _inputs(layer, number):
    """What a layer reads in its call of this number: the model at hand need not be the first that calls it."""
    tensors = layer._inbound_nodes[number].input_tensors
    return tensors[0] if isinstance(tensors, list) and len(tensors) == 1 else tensors


def _maker(tensors):
    """The layer whose outputs these are, all of them and in their order, and the number of its call; or None twice."""
    tensors = tensors if isinstance(tensors, list) else [tensors]
    histories = [tensor._keras_history for tensor in tensors]
    layer, number, _ = histories[0]
    wanted = [(layer, number, place) for place in range(len(histories))]
    if [tuple(history) for history in histories] != wanted or len(_outputs(layer, number)) != len(wanted):
        return None, None
    return layer, number


def _outputs(layer, number):
    tensors = layer._inbound_nodes[number].output_tensors
    return tensors if isinstance(tensors, list) else [tensors]
