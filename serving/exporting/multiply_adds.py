"""How much a signature computes: the multiply-adds of the matmuls in its graph, for one row."""

_PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")


def multiply_adds(function):
    """Multiply-adds a row of a traced `tf.function` with an input signature; the batch dimension counts as 1."""
    total = 0
    for operation in function.get_concrete_function().graph.get_operations():
        if operation.type == "Einsum":
            raise ValueError(f"an einsum cannot be counted: write {operation.name} as a matmul")
        if operation.type in _PRODUCTS:
            left, out = operation.inputs[0].shape, operation.outputs[0].shape
            transposed = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
            contracted = left[-2] if transposed else left[-1]
            cells = contracted
            for size in out:
                cells *= size or 1
            total += cells
    return total
