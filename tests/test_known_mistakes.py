"""Mistakes that published multi-task code makes. Each check passes for ours and must reject the mistaken version."""

import inspect
import json

import numpy as np
import pytest
import reference
from conftest import LEGACY
from gradients import forward, gradients

import mtl_layers as mtl
from mtl_layers._keras import keras, ops
from mtl_layers.sharing._wiring import ROOT, GateWiring, Level, Wiring


def rejects(check, mistaken):
    with pytest.raises(AssertionError):
        check(mistaken)


# Experts that start alike: their gate gets no gradient, and they stay alike.


class AlikeMMoE(mtl.MMoE):
    """One seeded initializer for every expert of the stack."""

    def build(self, input_shape):
        super().build(input_shape)
        for kernel in self.expert_levels[0].kernels:
            one = keras.initializers.GlorotUniform(seed=7)(tuple(kernel.shape)[1:])
            kernel.assign(ops.stack([one] * self.num_experts))


class WrongFanMMoE(mtl.MMoE):
    """The stacked kernel handed to Glorot as it is."""

    def build(self, input_shape):
        super().build(input_shape)
        for kernel in self.expert_levels[0].kernels:
            kernel.assign(keras.initializers.GlorotUniform(seed=7)(tuple(kernel.shape)))


def check_gate_learns_from_the_start(layer):
    x = np.random.default_rng(0).normal(size=(16, 5)).astype("float32")
    layer.build(x.shape)
    for number in range(1, layer.num_experts):
        kernel = reference.array(layer.expert_levels[0].kernels[0])
        assert np.abs(kernel[number] - kernel[0]).max() > 0.01
    (found,) = gradients(layer, x, lambda y: ops.sum(y**2), [layer.gate_levels[0].kernel])
    assert (np.abs(found).max(axis=0) > 1e-4).all()


@pytest.mark.parametrize(
    "initializer",
    ["glorot_uniform", keras.initializers.GlorotUniform(seed=7), keras.initializers.HeNormal(), "orthogonal"],
    ids=["name", "seeded object", "object", "matrices only"],
)
def test_experts_start_different_so_that_gates_learn(initializer):
    check_gate_learns_from_the_start(mtl.MMoE(2, 4, (8, 3), kernel_initializer=initializer))


def test_alike_experts_are_rejected():
    rejects(check_gate_learns_from_the_start, AlikeMMoE(2, 4, (8, 3)))


@pytest.mark.skipif(LEGACY, reason="Keras 2 has no SeedGenerator")
def test_experts_start_different_from_an_initializer_with_a_generator():
    initializer = keras.initializers.GlorotUniform(seed=keras.random.SeedGenerator(7))
    check_gate_learns_from_the_start(mtl.MMoE(2, 4, (8, 3), kernel_initializer=initializer))


def check_kernels_have_the_scale_of_dense(layer):
    layer.build((None, 40))
    for kernel in layer.expert_levels[0].kernels:
        kernel = reference.array(kernel)
        limit = np.sqrt(6 / (kernel.shape[1] + kernel.shape[2]))  # Glorot, of one Dense layer
        assert (np.abs(kernel) <= limit).all()
        assert (np.abs(kernel).max(axis=(1, 2)) > 0.9 * limit).all()


def test_every_expert_has_the_scale_of_a_dense_layer():
    check_kernels_have_the_scale_of_dense(mtl.MMoE(2, 4, (30, 20)))
    rejects(check_kernels_have_the_scale_of_dense, WrongFanMMoE(2, 4, (30, 20)))


def test_one_random_seed_gives_one_start_and_another_seed_another():
    kernels = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        layer = mtl.MMoE(2, 2, (3,))
        layer.build((None, 4))
        kernels.append(reference.array(layer.expert_levels[0].kernels[0]))
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).all()


# PLE wired in ways that the paper does not mean. Two tasks; experts of a level: 0-1 task 0, 2 task 1, 3-5 shared.

OWN, EVERY, SHARED = ((0, 1, 3, 4, 5), (2, 3, 4, 5)), tuple(range(6)), (3, 4, 5)
COUNTS = [[2, 1], [2, 1]], [3, 3]


class PLEOf(mtl.PLE):
    """A `PLE(2, 2, ((2, 1), (2, 1)), 3)` with parts of its wiring replaced."""

    def __init__(self, own=OWN, shared_gate=EVERY, dead_gate=False, top_queries=(0, 1), top_shared_reads=2, shared=3):
        self.parts = own, shared_gate, dead_gate, top_queries, top_shared_reads, shared
        super().__init__(2, 2, ((2, 1), (2, 1)), 3, (4,), activation="tanh")

    def wiring(self):
        own, shared_gate, dead_gate, top_queries, top_shared_reads, shared = self.parts
        gates = [GateWiring(ROOT, own[0]), GateWiring(ROOT, own[1])]
        if shared_gate:
            gates.append(GateWiring(ROOT, shared_gate))
        top = [GateWiring(query, experts) for query, experts in zip(top_queries, own, strict=True)]
        if dead_gate:
            top.append(GateWiring(2, EVERY))
        below = Level((ROOT,) * (3 + shared), tuple(gates), (4,))
        return Wiring((below, Level((0, 0, 1) + (top_shared_reads,) * shared, tuple(top), (4,))), (0, 1))


def check_ple(layer):
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")  # as wide as a level: wrong wirings fit too
    layer.build(x.shape)
    expected = reference.ple(reference.weights_of(layer), x, *COUNTS, activation=np.tanh)
    np.testing.assert_allclose(forward(layer, x), expected, rtol=1e-4, atol=1e-5)


def test_ple_is_wired_as_in_the_paper():
    check_ple(mtl.PLE(2, 2, ((2, 1), (2, 1)), 3, (4,), activation="tanh"))
    check_ple(PLEOf())  # the wiring that the mistakes start from is the right one


@pytest.mark.parametrize(
    "mistake",
    [
        {"shared_gate": SHARED},
        {"shared_gate": None, "top_shared_reads": 0},
        {"top_queries": (ROOT, ROOT)},
        {"dead_gate": True},
        {"own": ((0, 1, 2, 3, 4), (1, 2, 3, 4))},
        {"shared": 2, "own": ((0, 1, 3, 4), (2, 3, 4)), "shared_gate": (0, 1, 2, 3, 4)},
        {"top_shared_reads": 1},
    ],
    ids=[
        "shared gate over the shared experts only",
        "no shared gate",
        "gates of the second level fed the raw input",
        "dead shared gate in the last level",
        "experts indexed by the number of tasks",
        "shared experts as many as specific ones",
        "shared experts of the second level fed a task's mixture",
    ],
)
def test_a_mistaken_ple_is_rejected(mistake):
    rejects(check_ple, PLEOf(**mistake))


def check_every_weight_gets_a_gradient(layer):
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    layer.build(x.shape)
    for found in gradients(layer, x, lambda y: ops.sum(y[:, : layer.num_tasks] ** 2)):
        columns = None if found is None else np.abs(found.reshape(-1, found.shape[-1])).max(axis=0)
        assert columns is not None
        assert (columns > 0).all()


def test_no_part_of_ple_is_dead():
    check_every_weight_gets_a_gradient(mtl.PLE(2, 3, ((2, 1), 1, (1, 2)), (1, 0, 2), (4,), activation="tanh"))
    rejects(check_every_weight_gets_a_gradient, PLEOf(dead_gate=True))


# A gate that computes something else in training than in serving.


@keras.saving.register_keras_serializable(package="tests")
class BatchNormGate(mtl.SoftmaxGate):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm = keras.layers.BatchNormalization()

    def call(self, inputs, training=None):
        return super().call(self.norm(inputs, training=training))


def check_train_equals_serve(gate):
    x = np.random.default_rng(0).normal(3.0, size=(6, 4)).astype("float32")
    layer = mtl.MMoE(2, 3, (4,), gate=gate)
    trained = ops.convert_to_numpy(layer(x, training=True))
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x, training=False)), trained, rtol=1e-5)


@pytest.mark.parametrize("gate", [None, mtl.SoftmaxGate(use_bias=True), mtl.TopKGate(k=2)])
def test_a_gate_is_the_same_in_training_and_serving(gate):
    check_train_equals_serve(gate)


def test_a_gate_with_batch_normalisation_is_rejected():
    rejects(check_train_equals_serve, BatchNormGate())


# A configuration that forgets an argument.


class Forgetful(mtl.MMoE):
    def get_config(self):
        config = super().get_config()
        del config["dropout"]
        return config


def check_config_keeps_arguments(kind):
    layer = kind(2, num_experts=3, hidden_units=(5,), dropout=0.25, use_bias=False, activation="tanh")
    again = kind.from_config(json.loads(json.dumps(layer.get_config())))
    arguments = [name for each in kind.__mro__[:-1] for name in inspect.signature(each.__init__).parameters]
    for name in set(arguments) & set(vars(layer)):
        if isinstance(getattr(layer, name), int | float | tuple):
            assert getattr(again, name) == getattr(layer, name), name


def test_no_argument_is_forgotten_by_the_configuration():
    check_config_keeps_arguments(mtl.MMoE)
    rejects(check_config_keeps_arguments, Forgetful)
