"""Forward passes of the layers in NumPy, from the papers' formulas: loops over tasks and experts, nothing stacked.

Weights are read out of a built layer with `weights_of` and handed over explicitly, so that a test may change one.
"""

from dataclasses import dataclass

import numpy as np

from mtl_layers._keras import ops


def array(tensor):
    """A tensor or a variable in float64."""
    return np.asarray(ops.convert_to_numpy(tensor + 0), "float64")  # NumPy 2.4 deprecates reading a variable itself


def randomise(layer, rng):
    """Random weights of a built layer: biases start at zero, where a forgotten one cannot be seen."""
    for weight in layer.weights:
        weight.assign(rng.normal(size=tuple(weight.shape)).astype("float32"))


def relu(values):
    return np.maximum(values, 0.0)


def linear(values):
    return values


def sigmoid(values):
    return 1.0 / (1.0 + np.exp(-values))


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@dataclass
class LevelWeights:
    """Weights of one level: kernels [E, D, U] and biases [E, 1, U] per layer of an expert, and the gates' columns."""

    kernels: list
    biases: list
    gate_kernel: np.ndarray | None = None
    gate_bias: np.ndarray | None = None

    def arrays(self):
        gate = [each for each in (self.gate_kernel, self.gate_bias) if each is not None]
        return [*self.kernels, *self.biases, *gate]


def experts_weights(experts):
    return LevelWeights([array(kernel) for kernel in experts.kernels], [array(bias) for bias in experts.biases])


def weights_of(layer):
    """One `LevelWeights` per level of a sharing layer."""
    levels = []
    for experts, gates in zip(layer.expert_levels, layer.gate_levels, strict=True):
        level = experts_weights(experts)
        level.gate_kernel = None if gates.kernel is None else array(gates.kernel)
        level.gate_bias = None if gates.bias is None else array(gates.bias)
        levels.append(level)
    return levels


def expert(weights, number, x, activation=relu):
    """The output of one expert, an MLP: [B, D] -> [B, U]."""
    hidden = x
    for depth, kernel in enumerate(weights.kernels):
        hidden = hidden @ kernel[number]
        if weights.biases:
            hidden = hidden + weights.biases[depth][number, 0]
        hidden = activation(hidden)
    return hidden


class Gates:
    """Hands out the gates of a level one after the other; a gate over one expert has no column."""

    def __init__(self, weights, k=None):
        self.weights, self.k, self.used = weights, k, 0

    def __call__(self, query, num_experts):
        """Weights [B, num_experts] of the next gate, which reads that many experts."""
        if num_experts == 1:
            return np.ones((len(query), 1))
        columns = slice(self.used, self.used + num_experts)
        self.used += num_experts
        kernel = self.weights.gate_kernel[:, columns]
        assert kernel.shape == (query.shape[1], num_experts), f"a gate has a kernel of shape {kernel.shape}"
        scores = query @ kernel
        if self.weights.gate_bias is not None:
            scores = scores + self.weights.gate_bias[columns]
        return softmax(scores) if self.k is None else top_k(scores, self.k)

    def check_used_up(self):
        """Every column belongs to a gate that somebody reads."""
        columns = 0 if self.weights.gate_kernel is None else self.weights.gate_kernel.shape[1]
        assert self.used == columns, f"{columns} columns of gates, of which {self.used} are read"


def top_k(scores, k):
    """Softmax over the k largest scores of a row, the lower index first where they are equal; 0 elsewhere."""
    weights = np.zeros_like(scores)
    for row, values in enumerate(scores):
        kept = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
        weights[row, kept] = softmax(values[kept])
    return weights


def mixture(gate_weights, outputs):
    """sum_i g_i f_i"""
    return sum(gate_weights[:, [i]] * output for i, output in enumerate(outputs))


def shared_bottom(levels, x, num_tasks, activation=relu):
    return np.stack([expert(levels[0], 0, x, activation) for _ in range(num_tasks)], axis=1)


def omoe(levels, x, num_tasks, num_experts, activation=relu, k=None):
    outputs = [expert(levels[0], e, x, activation) for e in range(num_experts)]
    gates = Gates(levels[0], k)
    y = mixture(gates(x, num_experts), outputs)
    gates.check_used_up()
    return np.stack([y] * num_tasks, axis=1)


def mmoe(levels, x, num_tasks, num_experts, activation=relu, k=None):
    outputs = [expert(levels[0], e, x, activation) for e in range(num_experts)]
    gates = Gates(levels[0], k)
    tasks = [mixture(gates(x, num_experts), outputs) for _ in range(num_tasks)]
    gates.check_used_up()
    return np.stack(tasks, axis=1)


def multi_layer_mmoe(levels, x, num_tasks, num_experts, activation=relu, k=None):
    """`num_experts`: one count per level. Every gate reads x."""
    inputs = [x] * num_experts[0]
    for depth, count in enumerate(num_experts):
        outputs = [expert(levels[depth], e, inputs[e], activation) for e in range(count)]
        gates = Gates(levels[depth], k)
        readers = num_experts[depth + 1] if depth + 1 < len(num_experts) else num_tasks
        inputs = [mixture(gates(x, count), outputs) for _ in range(readers)]
        gates.check_used_up()
    return np.stack(inputs, axis=1)


def ple(levels, x, task_counts, shared_counts, activation=relu, k=None):
    """`task_counts`: per level a list with one count per task; `shared_counts`: one count per level."""
    num_tasks = len(task_counts[0])
    own, shared = [x] * num_tasks, x  # g^0 = x for every gate
    for depth, weights in enumerate(levels):
        asked, there = sum(task_counts[depth]) + shared_counts[depth], len(weights.kernels[0])
        assert there == asked, f"{there} experts where {asked} were asked for"
        number, task_experts = 0, []
        for task in range(num_tasks):
            task_experts.append([])
            for _ in range(task_counts[depth][task]):
                task_experts[task].append(expert(weights, number, own[task], activation))
                number += 1
        shared_experts = []
        for _ in range(shared_counts[depth]):
            shared_experts.append(expert(weights, number, shared, activation))
            number += 1

        gates, mixtures = Gates(weights, k), []
        for task in range(num_tasks):
            read = task_experts[task] + shared_experts
            mixtures.append(mixture(gates(own[task], len(read)), read))
        if sum(shared_counts[depth + 1 :]):  # else nothing reads the shared mixture, above all in the last level
            everything = [output for outputs in task_experts for output in outputs] + shared_experts
            shared = mixture(gates(shared, len(everything)), everything)
        gates.check_used_up()
        own = mixtures
    return np.stack(own, axis=1)


def cgc(levels, x, task_counts, shared_count, activation=relu, k=None):
    outputs = [expert(levels[0], e, x, activation) for e in range(sum(task_counts) + shared_count)]
    shared = outputs[sum(task_counts) :]
    gates, tasks = Gates(levels[0], k), []
    for task, count in enumerate(task_counts):
        first = sum(task_counts[:task])
        read = outputs[first : first + count] + shared
        tasks.append(mixture(gates(x, len(read)), read))
    gates.check_used_up()
    return np.stack(tasks, axis=1)


def towers(weights, h, heads, activation=relu):
    """`weights[k]`: (kernel [D, U], bias [U]) of each layer of task k's tower; `heads[k]`: its last activation."""
    scores = []
    for task, layers in enumerate(weights):
        values = h[:, task]
        for depth, (kernel, bias) in enumerate(layers):
            values = values @ kernel + bias
            values = heads[task](values) if depth == len(layers) - 1 else activation(values)
        scores.append(values)
    return scores
