"""Who may import whom, read from the source: one way through mtl_layers, and serving that stands alone."""

import ast
import functools
from pathlib import Path

import pytest

pytestmark = pytest.mark.once  # it reads the source alone

ROOT = Path(__file__).parents[1]
ORDER = (
    "_keras",
    "_rows",
    "_leaves",
    "_walk",
    "_trainable",
    "_checks",
    "_initializers",
    "_expert_arguments",
    "_multiply_adds",
    "features",
    "embedding",
    "experts",
    "gates",
    "sharing",
    "towers",
    "losses",
    "balancing",
    "optimizers",
    "search",
    "freeze_report",
    "freeze",
    "analysis",
)
EXPORTER = "serving.saved_model"
KERAS = {"keras", "tf_keras", "keras_rs", "tensorflow_recommenders"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path.read_text("utf-8")
    for package in ("mtl_layers", "serving")
    for path in sorted((ROOT / package).rglob("*.py"))
}
PACKAGES = {
    module_name(path) for package in ("mtl_layers", "serving") for path in (ROOT / package).rglob("__init__.py")
}


@functools.cache
def imports(module, source, known=tuple(MODULES)):
    """Every module that the source imports, at its head or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if module in PACKAGES else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            submodules = {f"{base}.{alias.name}" for alias in node.names} & set(known)
            found |= submodules or {base}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return found


def place(module):
    """Position of a module of mtl_layers in the order; None for the package itself."""
    parts = module.split(".")
    if len(parts) == 1:
        return None
    assert parts[1] in ORDER, f"{module} has no place in the order of modules: give it one in test_imports.py"
    return ORDER.index(parts[1])


def exporters_own(modules):
    """Helper modules of the exporter: they lie in `serving.exporting`, and nobody else imports them."""
    private = {name for name in modules if name.startswith("serving.exporting.")}
    family = {EXPORTER, *private}
    return {
        helper
        for helper in private
        if all(name in family for name, source in modules.items() if helper in imports(name, source, tuple(modules)))
    }


def violations(module, source, modules=MODULES):
    """What is wrong with the imports and statements of one module, as sentences."""
    wrong = []
    used = imports(module, source, tuple(modules))
    roots = {name.split(".")[0] for name in used}
    if module.startswith("mtl_layers"):
        wrong += [f"{module} imports {name}" for name in used if name.split(".")[0] == "serving"]
        mine = place(module)
        for name in used:
            if mine is not None and name.split(".")[0] == "mtl_layers":
                theirs = place(name)
                if theirs is None or theirs > mine:
                    wrong.append(f"{module} imports {name}, which is to its right")
        if module != "mtl_layers._keras" and roots & KERAS:
            wrong.append(f"{module} imports Keras other than from mtl_layers._keras")
    elif module != EXPORTER and module not in exporters_own(modules):
        wrong += [f"{module} imports {name}" for name in roots & {"mtl_layers", *KERAS}]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert):
            wrong.append(f"{module} has an assert statement in line {node.lineno}")
        elif isinstance(node, ast.Attribute) and node.attr == "Lambda":
            wrong.append(f"{module} uses a Lambda layer in line {node.lineno}")
        elif module.startswith("mtl_layers") and module != "mtl_layers._keras" and knows_which_keras(node):
            wrong.append(f"{module} asks in line {node.lineno} which Keras runs")
    return sorted(wrong)


def knows_which_keras(node):
    if isinstance(node, ast.Constant):
        return node.value in ("TF_USE_LEGACY_KERAS", "KERAS_BACKEND", "tf_keras")
    named = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return "legacy" in named.lower()


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    assert violations(module, MODULES[module]) == []


def test_the_modules_are_found():
    assert {"mtl_layers", "mtl_layers.sharing._mixture", "serving", "serving.client"} <= set(MODULES)
    found = imports("mtl_layers.freeze", MODULES["mtl_layers.freeze"])
    assert found >= {"mtl_layers._keras", "mtl_layers.freeze_report"}


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        (
            "mtl_layers.gates.gate",
            "from mtl_layers.sharing import MMoE",
            "mtl_layers.gates.gate imports mtl_layers.sharing, which is to its right",
        ),
        (
            "mtl_layers.gates.gate",
            "def f():\n    import mtl_layers.towers.tasks",
            "mtl_layers.gates.gate imports mtl_layers.towers.tasks, which is to its right",
        ),
        (
            "mtl_layers.gates.gate",
            "from ..sharing.ple import PLE",
            "mtl_layers.gates.gate imports mtl_layers.sharing.ple, which is to its right",
        ),
        (
            "mtl_layers.experts",
            "from mtl_layers import towers",
            "mtl_layers.experts imports mtl_layers.towers, which is to its right",
        ),
        (
            "mtl_layers.experts",
            "import mtl_layers as mtl",
            "mtl_layers.experts imports mtl_layers, which is to its right",
        ),
        ("mtl_layers.freeze", "from serving.client import Client", "mtl_layers.freeze imports serving.client"),
        (
            "mtl_layers.experts",
            "from keras import ops",
            "mtl_layers.experts imports Keras other than from mtl_layers._keras",
        ),
        (
            "mtl_layers.experts",
            "import os\nif os.environ.get('TF_USE_LEGACY_KERAS'):\n    pass",
            "mtl_layers.experts asks in line 2 which Keras runs",
        ),
        ("mtl_layers.experts", "if legacy:\n    pass", "mtl_layers.experts asks in line 1 which Keras runs"),
        ("mtl_layers.experts", "x = 1\nassert x", "mtl_layers.experts has an assert statement in line 2"),
        (
            "mtl_layers.experts",
            "y = keras.layers.Lambda(f)",
            "mtl_layers.experts uses a Lambda layer in line 1",
        ),
        ("serving.client", "def f():\n    from mtl_layers import Towers", "serving.client imports mtl_layers"),
        ("serving.client", "import keras.ops", "serving.client imports keras"),
        (
            "serving.client",
            "from importlib import import_module\nimport_module('tf_keras')",
            "serving.client imports tf_keras",
        ),
        ("serving.client", "assert True", "serving.client has an assert statement in line 1"),
    ],
)
def test_a_wrong_source_is_caught(module, source, expected):
    assert violations(module, source) == [expected]


def test_only_helpers_of_the_exporter_alone_may_import_keras():
    trace = "serving.exporting.trace"
    alone = {trace: "import keras", EXPORTER: f"from {trace} import f"}
    assert violations(trace, alone[trace], alone) == []
    shared = {**alone, "serving.client": "from serving.exporting import trace"}
    assert violations(trace, shared[trace], shared) == [f"{trace} imports keras"]


def test_a_new_module_must_be_given_a_place():
    with pytest.raises(AssertionError, match=r"mtl_layers\.novelty has no place in the order of modules"):
        violations("mtl_layers.novelty", "")
