"""Draws the picture of every sharing layer: who reads whom, from the layer's own wiring where it has one.

    python docs/figures.py [--output docs/figures]

What belongs to one task has its colour, what all share is grey. The pictures are committed; run this after a change.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import matplotlib
import numpy as np

import mtl_layers as mtl
from mtl_layers.sharing._wiring import ROOT

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLORS, SHARED, FAINT = ("#2a6fbb", "#d9742b"), "#555555", "#cccccc"
WIDTH, ROW = 5.2, 0.72  # inches
STYLE = {"svg.hashsalt": "mtl_layers", "font.size": 9, "axes.prop_cycle": matplotlib.cycler(color=COLORS)}


def color(task):
    """The colour of a task's own parts; of shared ones if `task` is None."""
    return SHARED if task is None else COLORS[task]


class Picture:
    """Rows of nodes from the input below to the tasks above; x runs from 0 to 1, y counts rows."""

    root = (0.5, 0)

    def __init__(self, rows):
        self.figure, self.axes = plt.subplots(figsize=(WIDTH, ROW * (rows + 0.1)), layout="constrained")
        self.axes.set_xlim(-0.22, 1.04)
        self.axes.set_ylim(-0.5, rows - 0.4)
        self.axes.axis("off")

    def expert(self, x, y, task=None):
        self.axes.plot(x, y, "o", ms=22, mfc="white", mec=color(task), mew=1.6, zorder=3)

    def box(self, x, y, text, task=None, filled=False):
        style = {"boxstyle": "round,pad=0.35", "ec": color(task), "fc": color(task) if filled else "white", "lw": 1.2}
        ink = "white" if filled else color(task)
        self.axes.text(x, y, text, ha="center", va="center", color=ink, bbox=style, zorder=4, fontsize=8)

    def line(self, start, end, task=None, **style):
        style = {"color": color(task), "lw": 1.2, "alpha": 0.75, "zorder": 1, **style}
        self.axes.plot((start[0], end[0]), (start[1], end[1]), **style)

    def label(self, y, text):
        self.axes.text(-0.2, y, text, ha="left", va="center", color="#888888", fontsize=8)

    def ends(self, top, num_tasks):
        """The input and the tasks; returns where these are."""
        self.box(*self.root, "x")
        self.label(0, "input")
        self.label(top, "towers")
        towers = [(x, top) for x in spread(num_tasks)]
        for task, place in enumerate(towers):
            self.box(*place, f"task {task}", task, filled=True)
        return towers

    def save(self, path):
        self.figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(self.figure)


def spread(count):
    """Places of `count` nodes side by side."""
    return (np.arange(count) + 0.5) / count


def owners(level, modules, num_tasks):
    """For each expert of a level the task that it belongs to, None for a shared one."""
    if not modules:
        return [None] * len(level.expert_inputs)
    found = []
    for expert, source in enumerate(level.expert_inputs):
        readers = [gate for gate, each in enumerate(level.gates) if expert in (each.native or each.experts)]
        readers = [source] if source != ROOT else [gate for gate in readers if gate < num_tasks]
        found.append(readers[0] if len(readers) == 1 and readers[0] < num_tasks else None)
    return found


def in_order(tasks, num_tasks):
    """Places of nodes in the order of the tasks they belong to, shared ones in the middle."""
    places = np.empty(len(tasks))
    order = np.argsort([(num_tasks - 1) / 2 if task is None else task for task in tasks], kind="stable")
    places[order] = spread(len(tasks))
    return places


def draw_wiring(layer, gate="g({})", modules=True):
    """The picture of a layer with a wiring; with `modules`, mixture k is that of task k on every level."""
    wiring, num_tasks = layer.wiring(), layer.num_tasks
    rows = sum(1 + gated(level) for level in wiring.levels)
    picture = Picture(rows + 2)
    towers = picture.ends(rows + 1, num_tasks)
    mixtures, y = None, 0  # (x, y, task) of each value that the level at hand reads
    for number, level in enumerate(wiring.levels, 1):
        depth, last = f" {number}" if len(wiring.levels) > 1 else "", number == len(wiring.levels)
        mine, y = owners(level, modules, num_tasks), y + 1
        picture.label(y, f"experts{depth}")
        experts = [(x, y, task) for x, task in zip(in_order(mine, num_tasks), mine, strict=True)]
        for node, source in zip(experts, level.expert_inputs, strict=True):
            start = (*picture.root, node[2]) if mixtures is None else mixtures[source]
            picture.line(start, node, start[2])
            picture.expert(*node)
        if not gated(level):
            mixtures = [experts[each.experts[0]] for each in level.gates]
            continue
        y += 1
        picture.label(y, f"gates{depth}" if "(" in gate else f"stitches{depth}")
        own = len(level.gates) > 1 and (modules or last)
        tasks = [k if own and k < num_tasks else None for k in range(len(level.gates))]
        mixtures = [(x, y, task) for x, task in zip(in_order(tasks, num_tasks), tasks, strict=True)]
        for node, each in zip(mixtures, level.gates, strict=True):
            for expert in each.experts:
                picture.line(experts[expert], node, node[2], lw=3 if expert in each.native else 1.2)
            picture.box(*node[:2], gate.format("x" if number == 1 or each.query == ROOT else "z"), node[2])
    for task, source in enumerate(wiring.outputs):
        picture.line(mixtures[source], towers[task], task)
    return picture


def gated(level):
    """Whether there is anything to mix."""
    return any(len(gate.experts) > 1 for gate in level.gates)


def l2_constrained():
    picture = draw_wiring(mtl.L2Constrained(2))
    arrow = {"arrowstyle": "<->", "color": SHARED, "linestyle": "--"}
    picture.axes.annotate("", (0.3, 1), (0.7, 1), arrowprops=arrow)
    picture.axes.text(0.5, 1.08, "penalty on the distance", ha="center", va="bottom", color=SHARED, fontsize=8)
    return picture


def tensor_factorization():
    picture = Picture(5)
    first, core, last = (0.5, 1), (0.5, 2), (0.5, 3)
    picture.line(picture.root, first)
    for task, tower in enumerate(picture.ends(4, 2)):
        own = (tower[0], 2)
        picture.line(core, own, ls=":")
        for start, end in ((first, own), (own, last), (last, tower)):
            picture.line(start, end, task)
        picture.box(*own, f"S · U3[{task}]", task)
    for y, text, name in ((1, "U1", "input factor"), (2, "S", "cores"), (3, "U2", "output factor")):
        picture.box(0.5, y, text)
        picture.label(y, name)
    return picture


def gumbel_matrix():
    chosen = np.array([[1, 1, 0, 0], [0, 1, 0, 1]], bool)
    picture = Picture(4)
    components = [(x, 1) for x in spread(4)]
    for component in components:
        picture.line(picture.root, component)
        picture.expert(*component)
    for task, tower in enumerate(picture.ends(3, 2)):
        head = (tower[0], 2)
        for component, used in zip(components, chosen[task], strict=True):
            picture.line(component, head, task if used else None, **({} if used else {"color": FAINT, "ls": ":"}))
        picture.box(*head, "mean of chosen", task)
        picture.line(head, tower, task)
    picture.label(1, "components")
    picture.label(2, "allocation")
    return picture


def sparse_sharing():
    rng = np.random.default_rng(4)
    picture = Picture(4)
    rows = [[picture.root], *([(x, y) for x in spread(6)] for y in (1, 2))]
    for below, above, density in ((rows[0], rows[1], 0.75), (rows[1], rows[2], 0.3)):
        masks = rng.random((2, len(below), len(above))) < density
        for start, end in np.ndindex(masks.shape[1:]):
            tasks = np.flatnonzero(masks[:, start, end])
            if not len(tasks):
                picture.line(below[start], above[end], color=FAINT, lw=0.6)
            for task in tasks:
                aside = 0.006 * (2 * task - 1) if len(tasks) > 1 else 0  # both use the weight: side by side
                picture.line((below[start][0] + aside, below[start][1]), (above[end][0] + aside, above[end][1]), task)
    towers = picture.ends(3, 2)
    for x, y in rows[1] + rows[2]:
        picture.axes.plot(x, y, "o", ms=11, mfc="white", mec=SHARED, mew=1.2, zorder=3)
    for node in rows[2]:
        for task, tower in enumerate(towers):
            picture.line(node, tower, task, lw=0.7, alpha=0.4)
    picture.label(1, "layer 1")
    picture.label(2, "layer 2")
    return picture


def route(drawn):
    picture = Picture(drawn.num_layers + 2)
    picture.axes.axis("on")
    picture.axes.tick_params(length=0, labelsize=8, labelcolor="#888888")
    mtl.analysis.draw_route(drawn, picture.axes)
    return picture


FOUND = mtl.Route(2, 2, 4, [((0,), None), ((0, 1), 0), ((1, 3), 3), ((3,), None), ((0, 1), 1), ((2, 3), 2)])

FIGURES = {
    "shared_bottom": lambda: draw_wiring(mtl.SharedBottom(2), modules=False),
    "omoe": lambda: draw_wiring(mtl.OMoE(2, 3), modules=False),
    "mmoe": lambda: draw_wiring(mtl.MMoE(2, 3), modules=False),
    "multi_layer_mmoe": lambda: draw_wiring(mtl.MultiLayerMMoE(2, 2, 3), modules=False),
    "cgc": lambda: draw_wiring(mtl.CGC(2, 2, 1)),
    "ple": lambda: draw_wiring(mtl.PLE(2, 2, 1, 1)),
    "ada_tt": lambda: draw_wiring(mtl.AdaTT(2, 2, 1, 0), "g({}) + v"),
    "cross_stitch": lambda: draw_wiring(mtl.CrossStitch(2, (64, 32)), "A"),
    "l2_constrained": l2_constrained,
    "tensor_factorization": tensor_factorization,
    "gumbel_matrix": gumbel_matrix,
    "sparse_sharing": sparse_sharing,
    "route_supernet": lambda: route(mtl.Route.mmoe(2, 2, 3)),
    "static_route": lambda: route(FOUND),
}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "figures")
    output = parser.parse_args(arguments).output
    output.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        for name, draw in FIGURES.items():
            draw().save(output / f"{name}.svg")


if __name__ == "__main__":
    main()
