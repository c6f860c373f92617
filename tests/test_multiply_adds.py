"""The counter of multiply-adds, on layers whose number is known."""

import pytest

import mtl_layers as mtl
from mtl_layers._keras import keras, ops
from mtl_layers._multiply_adds import multiply_adds


class Product(keras.layers.Layer):
    """An einsum of the input and a weight."""

    def __init__(self, equation, shape):
        super().__init__()
        self.equation, self.shape = equation, shape

    def build(self, input_shape):
        self.kernel = self.add_weight(name="kernel", shape=self.shape)
        self.built = True

    def call(self, inputs):
        return ops.einsum(self.equation, inputs, self.kernel)


class Transposed(keras.layers.Layer):
    """`[batch, 3, 7]` with itself, contracted over the second axis."""

    def call(self, inputs):
        return ops.matmul(ops.transpose(inputs, (0, 2, 1)), inputs)


@pytest.mark.parametrize(
    ("make", "shape", "count"),
    [
        (lambda: keras.layers.Dense(4), (5,), 5 * 4),
        (lambda: keras.layers.Dense(4), (3, 5), 3 * 5 * 4),
        (lambda: keras.layers.BatchNormalization(), (5,), 0),
        # Outputs, times the window, times the channels that each output reads.
        (lambda: keras.layers.Conv1D(4, 3), (8, 2), (6 * 4) * 3 * 2),
        (lambda: keras.layers.Conv2D(4, (2, 3), strides=2, padding="same"), (6, 5, 3), (3 * 3 * 4) * (2 * 3) * 3),
        (lambda: keras.layers.Conv3D(2, 2), (3, 3, 3, 2), (8 * 2) * 8 * 2),
        (lambda: keras.layers.DepthwiseConv2D(3, depth_multiplier=2), (5, 5, 4), (3 * 3 * 8) * 9),
        (lambda: keras.layers.SeparableConv1D(6, 3), (5, 4), (3 * 4) * 3 + (3 * 6) * 4),
        (lambda: mtl.Experts(3, (4, 2)), (5,), 3 * (5 * 4 + 4 * 2)),
        (lambda: mtl.Experts(3, (4,)), (3, 5), 3 * 5 * 4),
        (lambda: mtl.Towers({"a": (4,), "b": ()}), (2, 5), (5 * 4 + 4) + 5),
        (lambda: Product("bi,ij->bj", (5, 4)), (5,), 5 * 4),
        (lambda: Product("bki,kij->bkj", (3, 5, 4)), (3, 5), 3 * 5 * 4),
        (lambda: Product("...ki,ij->...kj", (5, 4)), (2, 3, 5), 2 * 3 * 5 * 4),
        (Transposed, (3, 7), 7 * 3 * 7),
        (lambda: mtl.MMoE(2, 3, (4,)), (5,), 3 * 5 * 4 + 2 * (5 * 3 + 3 * 4)),
    ],
)
@pytest.mark.parametrize("batch", [None, 32])
def test_it_counts_one_row(make, shape, count, batch):
    inputs = keras.Input(shape, batch_size=batch)
    layer = make()
    layer(inputs)
    assert multiply_adds(layer, inputs) == count


def test_several_inputs_are_counted_in_any_nesting():
    inputs = {"a": keras.Input((5,), name="a"), "b": keras.Input((3,), name="b")}
    dense = keras.layers.Dense(4)
    model = keras.Model(inputs, keras.layers.Concatenate()([dense(inputs["a"]), keras.layers.Dense(2)(inputs["b"])]))
    assert multiply_adds(model, inputs) == 5 * 4 + 3 * 2


@pytest.mark.needs_tensorflow
def test_an_exported_model_may_have_an_einsum_and_fold_axes_into_the_batch(tmp_path):
    import json

    import serving

    inputs = keras.Input((3, 6), name="x")
    hidden = keras.layers.Dense(5, use_bias=False)(inputs)
    model = keras.Model(inputs, {"y": keras.layers.EinsumDense("abc,cde->abde", (None, 2, 4))(hidden)})
    version = serving.export(model, tmp_path, verbose=False)
    manifest = json.loads((version / "manifest.json").read_text())
    assert manifest["signatures"]["y"]["multiply_adds"] == 6 * 5 + 3 * 5 * 2 * 4  # Dense has its 3 rows in the batch
    assert manifest["parameters"] == 6 * 5 + 5 * 2 * 4
