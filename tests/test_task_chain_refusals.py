"""What ESMM and AITM refuse, each by its text."""

import pytest

import mtl_layers as mtl
from mtl_layers._keras import keras
from mtl_layers.towers import Regression


def esmm():
    return mtl.ESMM({"a": (4,), "b": (4,)}, {"ab": ("a", "b")})


def names_rule(argument, chain, tasks=("a", "b", "watch"), least=""):
    return (
        f"`{argument}` must be a tuple of {least}names among {list(tasks)}, each once, since no task comes before "
        f"itself; received: {argument}={chain!r}"
    )


TASKS = {"a": (4,), "b": (4,), "watch": Regression(())}
ARGUMENT, LEAST = "chains['ab']", "at least 2 "
NAMED = "`chains` must be a dict from names, other than those of tasks, to tuples of tasks; received: chains="
KNOWN = ", tasks=['a', 'b', 'watch']"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: mtl.AITM(TASKS, ("a", "b", "a")), names_rule("chain", ("a", "b", "a"))),
        (lambda: mtl.AITM(TASKS, ("a", "c")), names_rule("chain", ("a", "c"))),
        (lambda: mtl.AITM(TASKS, "ab"), names_rule("chain", "ab")),
        (
            lambda: mtl.AITM(TASKS, ("a", "watch")),
            "`chain` must consist of binary tasks; received: chain=('a', 'watch') with {'watch': 'Regression'}",
        ),
        (
            lambda: mtl.AITM(TASKS),
            "`chain` must consist of binary tasks; received: chain=('a', 'b', 'watch') with {'watch': 'Regression'}",
        ),
        (
            lambda: mtl.AITM(TASKS, ("a", "b"), calibrator=-1.0),
            "`calibrator` must be a number of at least 0; received: calibrator=-1.0",
        ),
        (lambda: mtl.ESMM(TASKS, {"ab": ("a", "b", "a")}), names_rule(ARGUMENT, ("a", "b", "a"), least=LEAST)),
        (lambda: mtl.ESMM(TASKS, {"ab": ("a", "c")}), names_rule(ARGUMENT, ("a", "c"), least=LEAST)),
        (lambda: mtl.ESMM(TASKS, {"ab": ("a",)}), names_rule(ARGUMENT, ("a",), least=LEAST)),
        (lambda: mtl.ESMM(TASKS, {"ab": ("ab", "a")}), names_rule(ARGUMENT, ("ab", "a"), least=LEAST)),
        (
            lambda: mtl.ESMM(TASKS, {"ab": ("a", "watch")}),
            f"`{ARGUMENT}` must consist of binary tasks; received: {ARGUMENT}=('a', 'watch') with "
            "{'watch': 'Regression'}",
        ),
        (lambda: mtl.ESMM(TASKS, {"a": ("a", "b")}), NAMED + "{'a': ('a', 'b')}" + KNOWN),
        (lambda: mtl.ESMM(TASKS, {"": ("a", "b")}), NAMED + "{'': ('a', 'b')}" + KNOWN),
        (lambda: mtl.ESMM(TASKS, ("a", "b")), NAMED + "('a', 'b')" + KNOWN),
        (lambda: esmm().freeze([3]), "`tasks` must be distinct indexes below 3, or None for all; received: tasks=[3]"),
        (
            lambda: mtl.AITM(TASKS, ("a", "b"), name="a").freeze(),
            "`a` must be built before it is frozen: call it on data or fit it first",
        ),
    ],
)
def test_a_bad_chain_is_told_by_name(make, text):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == text


def test_an_unknown_task_cannot_be_kept():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, esmm()(mtl.SharedBottom(2, (4,))(inputs)))
    with pytest.raises(ValueError, match=r"distinct names among \['a', 'b', 'ab'\]; received: tasks=\['ba'\]"):
        mtl.freeze(model, ["ba"])
