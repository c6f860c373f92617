"""LazyAdam moves the rows that a batch has looked up by its formula, and leaves all others as they are to the bit."""

import numpy as np
import pytest
from conftest import LEGACY
from reference import array
from two_devices import run_on_two_devices

import mtl_layers as mtl
from mtl_layers._keras import BACKEND, keras
from mtl_layers._rows import gather_rows, resource_of

needs_tensorflow = pytest.mark.needs_tensorflow
ROWS, WIDTH = 7, 3
LOOKED_UP = [[1, 1, 4], [4, 0, 4], [2, 2, 2], [1, 5, 0]]  # row 3 and row 6 never


@pytest.mark.skipif(BACKEND == "tensorflow", reason="of other backends")
def test_another_backend_is_refused():
    with pytest.raises(ValueError, match="LazyAdam must run on the TensorFlow backend; received: backend='jax'"):
        mtl.LazyAdam()


def variable(value):
    if LEGACY:
        import tensorflow as tf

        return tf.Variable(value)
    return keras.Variable(value)


def sparse(rows, values):
    import tensorflow as tf

    return tf.IndexedSlices(tf.constant(values), tf.constant(rows), (ROWS, WIDTH))


def slots(optimizer):
    names = ["_momentums", "_velocities"] + ["_velocity_hats"] * optimizer.amsgrad
    return [array(getattr(optimizer, name)[0]) for name in names]


def lazily(w, gradients, rate, b1=0.9, b2=0.999, epsilon=1e-7, amsgrad=False):
    """The formula, row by row."""
    m, v, largest = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    for t, (rows, values) in enumerate(gradients, start=1):
        for row in set(rows):
            g = sum(value for number, value in zip(rows, values, strict=True) if number == row)
            m[row] = b1 * m[row] + (1 - b1) * g
            v[row] = b2 * v[row] + (1 - b2) * g**2
            largest[row] = np.maximum(largest[row], v[row])
            scale = largest[row] if amsgrad else v[row]
            w[row] -= rate * np.sqrt(1 - b2**t) / (1 - b1**t) * m[row] / (np.sqrt(scale) + epsilon)
    return [w, m, v] + [largest] * amsgrad


@needs_tensorflow
@pytest.mark.parametrize("amsgrad", [False, True])
def test_rows_move_by_the_formula_and_others_stay_to_the_bit(rng, amsgrad):
    start = rng.normal(size=(ROWS, WIDTH)).astype("float32")
    table, optimizer = variable(start), mtl.LazyAdam(0.1, beta_2=0.9, amsgrad=amsgrad)
    gradients = [(rows, rng.normal(size=(3, WIDTH)).astype("float32") * 10.0**-k) for k, rows in enumerate(LOOKED_UP)]
    optimizer.build([table])
    for gradient in gradients:
        before = [array(table), *slots(optimizer)]
        optimizer.apply_gradients([(sparse(*gradient), table)])
        others = [row for row in range(ROWS) if row not in gradient[0]]
        for old, new in zip(before, [array(table), *slots(optimizer)], strict=True):
            np.testing.assert_array_equal(new[others], old[others])
    expected = lazily(start.astype("float64"), gradients, 0.1, b2=0.9, amsgrad=amsgrad)
    for found, value in zip([array(table), *slots(optimizer)], expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-7)


@needs_tensorflow
def test_in_its_first_step_and_for_dense_gradients_it_is_adam(rng):
    start, values = rng.normal(size=(2, ROWS, WIDTH)).astype("float32")
    tables = []
    for optimizer in (keras.optimizers.Adam(0.1), mtl.LazyAdam(0.1)):
        dense, looked_up = variable(start), variable(start)
        optimizer.build([dense, looked_up])
        # Each row once, in another order: sparse as a gradient is, and all there is of it.
        order = rng.permutation(ROWS)
        optimizer.apply_gradients([(values, dense), (sparse(order, values[order]), looked_up)])
        optimizer.apply_gradients([(values[::-1], dense)])
        tables.append([array(dense), array(looked_up)])
    np.testing.assert_array_equal(tables[0][0], tables[1][0])
    np.testing.assert_allclose(tables[0][1], tables[1][1], rtol=1e-6)


@needs_tensorflow
def test_clipping_sees_the_gradients(rng):
    start = np.zeros((ROWS, WIDTH), "float32")
    for clipping in ({"clipnorm": 0.5}, {"clipvalue": 0.1}, {"global_clipnorm": 0.5}):
        table, beside, optimizer = (
            variable(start),
            variable(start[0]),
            mtl.LazyAdam(0.1, beta_2=0.9, epsilon=1.0, **clipping),
        )
        optimizer.build([table, beside])
        sparsely = [([2, 5], np.full((2, WIDTH), 4.0, "float32")), ([5, 1], np.full((2, WIDTH), -8.0, "float32"))]
        dense = [np.full(WIDTH, 3.0, "float32")] * 2
        clipped = []
        for (rows, values), other in zip(sparsely, dense, strict=True):
            optimizer.apply_gradients([(sparse(rows, values), table), (other, beside)])
            of_all = np.sqrt((values**2).sum() + (other**2).sum() * ("global_clipnorm" in clipping))
            clipped.append((rows, np.clip(values, -0.1, 0.1) if "clipvalue" in clipping else values * 0.5 / of_all))
        expected = lazily(start.astype("float64"), clipped, 0.1, b2=0.9, epsilon=1.0)[0]
        np.testing.assert_allclose(array(table), expected, rtol=1e-5)


# ---------------------------------------------------------------------------------------------------------- in a model


def recommender(optimizer, jit_compile=False):
    inputs = {"user": keras.Input((1,), dtype="int64", name="user"), "x": keras.Input((1,), name="x")}
    features = mtl.FeatureEmbedding(
        {
            "user": mtl.features.Categorical(vocabulary=tuple(range(50)), dtype="int64"),
            "x": mtl.features.Numeric(0.0, 1.0),
        },
        width=4,
    )
    h = mtl.MMoE(2, 2, (4,))(features(inputs))
    model = keras.Model(inputs, mtl.Towers({"click": (), "buy": ()})(h))
    losses = mtl.losses.per_task({"click": "binary_crossentropy", "buy": "binary_crossentropy"})
    model.compile(optimizer, **losses, jit_compile=jit_compile)
    return model, features


def data(rng, users):
    x = {"user": np.array(users)[:, None], "x": rng.normal(size=(len(users), 1)).astype("float32")}
    y = {name: (rng.random((len(users), 1)) < 0.5).astype("float32") for name in ("click", "buy")}
    return x, y


@needs_tensorflow
def test_training_moves_the_rows_of_a_batch_is_saved_and_goes_on_as_it_would_have(rng, tmp_path):
    model, features = recommender(mtl.LazyAdam(0.05))
    users = [3, 3, 8, 21, 8, 3]
    x, y = data(rng, users)
    table = features.tables[0].embeddings
    before = array(table)
    model.fit(x, y, batch_size=6, epochs=3, verbose=0)
    moved = np.flatnonzero((array(table) != before).any(axis=1))
    assert len(moved) == 3 and set(moved) == {int(row) for row in features.preprocessors[0](np.array([3, 8, 21]))}

    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert type(loaded.optimizer) is mtl.LazyAdam
    for each in (model, loaded):
        each.fit(x, y, batch_size=6, epochs=2, verbose=0, shuffle=False)
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@needs_tensorflow
def test_no_step_reads_a_table_as_a_whole(rng):
    import tensorflow as tf

    model, features = recommender(mtl.LazyAdam(0.05))
    x, y = data(rng, [1, 2])
    model.train_on_batch(x, y)
    table = features.tables[0].embeddings
    handle = resource_of(table).handle

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = sum(tf.reduce_sum(value) for value in model(x, training=True).values())
        weights = model.trainable_variables
        gradients = tape.gradient(loss, [resource_of(weight) for weight in weights])
        model.optimizer.apply_gradients(list(zip(gradients, weights, strict=True)))

    graph = step.get_concrete_function().graph
    own = [inner for outer, inner in graph.captures if outer is handle]
    readers = {each.type for each in graph.get_operations() for tensor in each.inputs if tensor is own[0]}
    assert readers == {"ResourceGather", "ResourceScatterUpdate"}


@needs_tensorflow
def test_the_gates_of_routes_not_in_force_stay_as_they_are(rng):
    supernet = mtl.RouteSupernet(2, 2, 3, 4)
    inputs = keras.Input((5,))
    model = keras.Model(inputs, mtl.Towers({"a": (), "b": ()})(supernet(inputs)))
    model.compile(mtl.LazyAdam(0.1), loss="mse")
    x, y = rng.normal(size=(8, 5)).astype("float32"), {name: np.ones((8, 1), "float32") for name in "ab"}
    kernels = [weight for weight in supernet.trainable_weights if weight.shape[0] > 50]
    assert len(kernels) == 1
    start = array(kernels[0])
    moved = []
    for route in (0, 3, 0):
        supernet.route.assign(np.full(supernet.space.num_blocks, route, "int32"))
        before = array(kernels[0])
        model.train_on_batch(x, y)
        moved.append(set(np.flatnonzero((array(kernels[0]) != before).any(axis=1))))
    rows = len(start)
    assert all(len(each) < rows / 3 for each in moved) and moved[2] <= moved[0]


@needs_tensorflow
@pytest.mark.once
def test_compiled_by_xla_and_on_two_replicas_it_is_the_same():
    done = run_on_two_devices("""
        from mtl_layers._rows import gather_rows

        class Table(keras.layers.Layer):
            def build(self, shape):
                self.table = self.add_weight(name="table", shape=(40, 3), initializer="ones")
            def call(self, ids):
                return tf.reduce_sum(gather_rows(self.table, ids), axis=1)

        class DistinctTable(Table):
            def call(self, ids):
                rows, places = tf.unique(tf.reshape(ids, (-1,)))
                return tf.reduce_sum(tf.reshape(tf.gather(gather_rows(self.table, rows), places), (-1, 2, 3)), axis=1)

        def trained(jit_compile=False, table=Table):
            keras.utils.set_random_seed(0)
            ids = keras.Input((2,), dtype="int32")
            model = keras.Model(ids, keras.layers.Dense(1, kernel_initializer="ones")(table()(ids)))
            model.compile(mtl.LazyAdam(0.1), "mse", jit_compile=jit_compile)
            random = np.random.default_rng(0)
            x, y = random.integers(0, 30, (24, 2)), random.normal(size=(24, 1))
            model.fit(x.astype("int32"), y.astype("float32"), batch_size=8, shuffle=False, epochs=2, verbose=0)
            return model.get_weights()

        plain = trained()
        others = [trained(jit_compile=True), trained(True, DistinctTable), trained(False, DistinctTable)]
        with strategy.scope():
            others.append(trained())
        for other in others:
            for one, same in zip(plain, other):
                np.testing.assert_allclose(same, one, rtol=1e-4, atol=1e-5)
        assert (plain[0][30:] == 1).all() and (plain[0][:30] != 1).any()
        """)
    assert done.returncode == 0, done.stderr


def test_gathered_rows_are_those_of_the_variable(rng):
    layer = keras.layers.Dense(3)
    layer.build((None, 6))
    rows = np.array([[5, 0], [2, 2]])
    found = gather_rows(layer.kernel, rows)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(found) if hasattr(keras, "ops") else found, array(layer.kernel)[rows]
    )
