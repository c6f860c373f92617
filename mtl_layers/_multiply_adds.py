"""How much is computed: the multiply-adds of matrix products and convolutions, for one row."""

import math

from mtl_layers._keras import BACKEND

_PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
_CONVOLUTIONS = ("Conv2D", "Conv3D")  # Conv1D is a Conv2D of height 1


def multiply_adds(layer, inputs):
    """Multiply-adds a row of a built layer, outside training; `inputs` are its symbolic inputs, in any nesting."""
    if BACKEND == "jax":
        import jax

        values = [v.value for v in layer.trainable_variables], [v.value for v in layer.non_trainable_variables]
        rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct([1, *(size or 1 for size in x.shape[1:])], x.dtype), inputs)
        return _of_jaxpr(jax.make_jaxpr(lambda given: layer.stateless_call(*values, given)[0])(rows))

    import tensorflow as tf

    rows = tf.nest.map_structure(lambda x: tf.TensorSpec([1, *x.shape[1:]], x.dtype), inputs)
    function = tf.function(lambda given: layer(given), autograph=False)
    return graph_multiply_adds(function.get_concrete_function(rows).graph)


def graph_multiply_adds(graph):
    """Multiply-adds a row of a TensorFlow graph.

    A dimension of unknown size, such as the batch, counts as 1, and so does what a layer folds into the batch.
    """
    total = 0
    for operation in graph.get_operations():
        if operation.type == "Einsum":
            total += _of_einsum(operation.get_attr("equation").decode(), [each.shape for each in operation.inputs])
            continue
        if operation.type in _PRODUCTS:
            left, right = (each.shape for each in operation.inputs)
            by_name = operation.type == "MatMul"
            left_axis = -2 if operation.get_attr("transpose_a" if by_name else "adj_x") else -1
            right_axis = -1 if operation.get_attr("transpose_b" if by_name else "adj_y") else -2
            read = left[left_axis] or right[right_axis] or 1  # where a layer reshapes, the left is often unknown
        elif operation.type in _CONVOLUTIONS:
            read = math.prod(operation.inputs[1].shape[:-1])  # of [..., channels in, channels out]
        elif operation.type == "DepthwiseConv2dNative":
            read = math.prod(operation.inputs[1].shape[:2])  # of [height, width, channels, outputs of each]
        else:
            continue
        # Each number of the output is a sum over what it reads.
        total += read * math.prod(size or 1 for size in operation.outputs[0].shape)
    return total


def _of_einsum(equation, shapes):
    """One multiply-add for every combination of the indexes that occur; "..." stands for the dimensions left over."""
    sizes = {}
    for labels, shape in zip(equation.split("->")[0].split(","), shapes, strict=True):
        before, ellipsis, after = labels.partition("...")
        more = [f"...{place}" for place in range(len(shape) - len(before) - len(after), 0, -1)] if ellipsis else []
        for label, size in zip([*before, *more, *after], shape, strict=True):
            sizes[label] = max(sizes.get(label, 1), size or 1)
    return math.prod(sizes.values())


def _of_jaxpr(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += math.prod(left[axis] for axis in contracted) * math.prod(out)
        elif equation.primitive.name == "conv_general_dilated":
            kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
            outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += math.prod(kernel) // outputs * math.prod(out)
        for inner in equation.params.values():  # what is compiled or differentiated on its own
            inner = getattr(inner, "jaxpr", inner)
            total += _of_jaxpr(inner) if hasattr(inner, "eqns") else 0
    return total
