"""Sparse sharing: its numbers, whose weights a task and an optimizer reach, masks and their special cases."""

import itertools

import numpy as np
import pytest
from conftest import BACKEND
from gradients import forward, gradients
from reference import array

import mtl_layers as mtl
from mtl_layers._keras import keras, ops

DIM, UNITS = 5, (6, 6, 4)


def random_masks(rng, num_tasks=3, units=UNITS, dim=DIM, kept=0.4):
    widths = (dim, *units)
    return [rng.random((num_tasks, *shape)) < kept for shape in itertools.pairwise(widths)]


def built(rng, masks=None, num_tasks=3, units=UNITS, shape=(DIM,), **kwargs):
    """A built layer with random kernels, biases and masks."""
    layer = mtl.SparseSharing(num_tasks, units, **kwargs)
    layer.build((None, *shape))
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(size=tuple(weight.shape)).astype("float32"))
    layer.set_masks(random_masks(rng, num_tasks, units) if masks is None else masks)
    return layer


def reference(layer, x, activation=np.tanh):
    """The formula of the docstring, task by task: [B, D] or [B, T, D] -> [B, T, U]."""
    tasks = []
    for task in range(layer.num_tasks):
        hidden = x if x.ndim == 2 else x[:, task]
        for depth, kernel in enumerate(layer.kernels):
            mask = layer.get_masks()[depth][task]
            if mask.any():
                bias = array(layer.biases[depth]) if layer.use_bias else 0.0
                hidden = activation(hidden @ (mask * kernel.astype("float64")) + bias)
        tasks.append(hidden)
    return np.stack(tasks, axis=1)


# Numbers


@pytest.mark.parametrize("shape", [(DIM,), (3, DIM)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_it_agrees_with_numpy(rng, shape, use_bias):
    layer = built(rng, shape=shape, use_bias=use_bias, activation="tanh")
    x = rng.normal(size=(7, *shape)).astype("float32")
    np.testing.assert_allclose(forward(layer, x), reference(layer, x), rtol=1e-5, atol=1e-6)


def test_one_pass_gives_what_a_pass_for_each_task_gives(rng):
    layer = built(rng)
    x = rng.normal(size=(7, DIM)).astype("float32")
    together = forward(layer, x)
    for task in range(3):
        alone = built(rng, [mask[[task]] for mask in layer.get_masks()], num_tasks=1)
        for mine, theirs in zip(alone.trainable_weights, layer.trainable_weights, strict=True):
            mine.assign(array(theirs))
        np.testing.assert_allclose(forward(alone, x)[:, 0], together[:, task], rtol=1e-6, atol=1e-6)


def test_mixed_precision_computes_with_masks(rng):
    layer, exact = mtl.SparseSharing(3, UNITS, dtype="mixed_bfloat16"), built(rng)
    x = rng.normal(size=(7, DIM)).astype("float32")
    layer.build(x.shape)
    for mine, theirs in zip(layer.weights, exact.weights, strict=True):
        mine.assign(theirs.numpy())
    found = layer(x)
    assert "bfloat16" in str(found.dtype)
    expected = forward(exact, x)
    np.testing.assert_allclose(array(ops.cast(found, "float32")), expected, atol=0.05 * np.abs(expected).max())


# Who reaches which weights


@pytest.mark.parametrize("task", range(3))
def test_the_gradient_of_a_task_touches_its_own_weights_and_no_others(rng, task):
    layer = built(rng, activation="tanh")
    x = rng.normal(size=(16, DIM)).astype("float32")
    found = gradients(layer, x, lambda y: ops.sum(y[:, task] ** 2), layer.trained_kernels)
    for gradient, mask in zip(found, layer.get_masks(), strict=True):
        assert (gradient[~mask[task]] == 0).all()
        assert (gradient[mask[task]] != 0).mean() > 0.5  # not all: some lead to a unit that no weight leads on from


OPTIMIZERS = {
    "Adam with weight decay": lambda: keras.optimizers.Adam(0.01, weight_decay=0.1),
    "AdamW": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "SGD with momentum": lambda: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
}


def compiled(layer, optimizer):
    inputs = keras.Input((DIM,))
    model = keras.Model(inputs, layer(inputs))
    model.compile(optimizer, "mse", jit_compile=BACKEND == "jax")
    return model


def train(model, rng, steps):
    x = rng.normal(size=(8 * steps, DIM)).astype("float32")
    model.fit(x, rng.normal(size=(len(x), *model.output.shape[1:])), batch_size=8, verbose=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_weight_that_no_mask_uses_stays_equal_to_the_bit(rng, name):
    layer = mtl.SparseSharing(3, UNITS, activation="tanh", kernel_regularizer=keras.regularizers.L2(0.01))
    model = compiled(layer, OPTIMIZERS[name]())
    train(model, rng, 5)  # so that there is momentum when the masks come
    masks = random_masks(rng, kept=0.2)
    before = layer.kernels
    layer.set_masks(masks)
    drift = [array(kernel) for kernel in layer.trained_kernels]
    train(model, rng, 100)
    for depth, (old, new) in enumerate(zip(before, layer.kernels, strict=True)):
        used = masks[depth].any(axis=0)
        assert 0.2 < used.mean() < 0.8
        assert new[~used].tobytes() == old[~used].tobytes()
        assert (new[used] != old[used]).all()
        # The optimizer did reach for them: without the second variable they would have moved.
        assert (array(layer.trained_kernels[depth]) != drift[depth])[~used].all()


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_in_a_batch_of_one_task_momentum_alone_moves_what_only_others_use(rng, name):
    layer = mtl.SparseSharing(2, (6,))
    masks = np.zeros((2, DIM, 6), bool)
    masks[0, :, :3] = masks[1, :, 3:] = True
    inputs = keras.Input((DIM,))
    model = keras.Model(inputs, mtl.Towers({"a": (), "b": ()})(layer(inputs)))
    layer.set_masks([masks])
    losses = mtl.losses.per_task(dict.fromkeys("ab", "binary_crossentropy"), missing_value=float("nan"))
    model.compile(getattr(keras.optimizers, name)(0.01), **losses, jit_compile=BACKEND == "jax")
    x, y, none = rng.normal(size=(40, DIM)), np.ones((40, 1)), np.full((40, 1), np.nan)
    model.train_on_batch(x, {"a": y, "b": none})
    before = layer.kernels[0]
    model.train_on_batch(x, {"a": none, "b": y})
    moved = np.abs(layer.kernels[0] - before)
    assert moved[:, 3:].max() > 1e-4
    if name == "SGD":
        assert (moved[:, :3] == 0).all()
    else:
        assert moved[:, :3].max() > 1e-3


def test_new_masks_change_no_weight_and_bring_back_what_rested(rng):
    layer = mtl.SparseSharing(3, UNITS, activation="tanh")
    model = compiled(layer, keras.optimizers.Adam(0.01))
    for _ in range(3):
        before = layer.kernels
        layer.set_masks(random_masks(rng))
        for old, new in zip(before, layer.kernels, strict=True):
            np.testing.assert_array_equal(new, old)
        x = rng.normal(size=(7, DIM)).astype("float32")
        np.testing.assert_allclose(model.predict(x, verbose=0), reference(layer, x), rtol=1e-5, atol=1e-5)
        train(model, rng, 5)


def test_a_regularizer_counts_the_weights_that_some_mask_uses(rng):
    layer = built(rng, kernel_regularizer=keras.regularizers.L2(0.5))
    used = [kernel[mask.any(axis=0)] for kernel, mask in zip(layer.kernels, layer.get_masks(), strict=True)]
    found = sum(float(array(loss)) for loss in layer.losses)
    np.testing.assert_allclose(found, 0.5 * sum((values**2).sum() for values in used), rtol=1e-5)


def test_a_saved_model_keeps_masks_and_resting_weights(rng, tmp_path):
    layer = built(rng, activation="tanh")
    model = compiled(layer, keras.optimizers.AdamW(0.01, weight_decay=0.1))
    train(model, rng, 5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = next(each for each in loaded.layers if isinstance(each, mtl.SparseSharing))
    for read in (lambda each: each.get_masks(), lambda each: each.kernels):
        for old, new in zip(read(layer), read(again), strict=True):
            np.testing.assert_array_equal(new, old)
    resting = [kernel[~mask.any(axis=0)] for kernel, mask in zip(layer.kernels, layer.get_masks(), strict=True)]
    train(loaded, rng, 5)
    for depth, mask in enumerate(again.get_masks()):
        np.testing.assert_array_equal(again.kernels[depth][~mask.any(axis=0)], resting[depth])


# Masks


def test_without_masks_set_it_is_hard_sharing_and_equals_a_shared_bottom(rng):
    layer, bottom = mtl.SparseSharing(3, UNITS), mtl.SharedBottom(3, UNITS)
    x = rng.normal(size=(7, DIM)).astype("float32")
    for each in (layer, bottom):
        each.build(x.shape)
    for mask, hard in zip(layer.get_masks(), layer.hard_masks(), strict=True):
        assert mask.all()
        np.testing.assert_array_equal(mask, hard)
    experts = bottom.expert_levels[0]
    for depth, kernel in enumerate(layer.kernels):
        experts.kernels[depth].assign(kernel[None])
        layer.biases[depth].assign(rng.normal(size=UNITS[depth]))
        experts.biases[depth].assign(array(layer.biases[depth])[None, None])
    np.testing.assert_allclose(forward(layer, x), forward(bottom, x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_hierarchical_sharing_ends_tasks_below_masked_layers(rng, activation):
    layer = mtl.SparseSharing(3, (4, 4, 4), activation=activation)
    x = rng.normal(size=(7, DIM)).astype("float32")
    layer.build(x.shape)
    layer.set_masks(layer.hierarchical_masks((1, 3, 2)))
    hidden, outputs = ops.convert_to_tensor(x), []
    for depth in range(3):
        dense = keras.layers.Dense(4, activation)
        dense.build(hidden.shape)
        dense.kernel.assign(layer.kernels[depth])
        layer.biases[depth].assign(rng.normal(size=4))
        dense.bias.assign(array(layer.biases[depth]))
        hidden = dense(hidden)
        outputs.append(array(hidden))
    found = forward(layer, x)
    for task, depth in enumerate((1, 3, 2)):
        np.testing.assert_allclose(found[:, task], outputs[depth - 1], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(layer.kept_fractions(), [20 / 52, 1.0, 36 / 52])
    wanted = [*layer.trained_kernels, *layer.biases]
    for number, gradient in enumerate(gradients(layer, x, lambda y: ops.sum(y[:, 0] ** 2), wanted)):
        assert (gradient != 0).any() == (number % 3 == 0)  # kernel and bias of the first layer, and nothing above
