"""The documentation: it builds, every public name has a place in it, and what it takes from elsewhere is right."""

import importlib.util
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

import mtl_layers as mtl
from benchmarks.quality.datasets import NAMES
from benchmarks.quality.methods import METHODS
from mtl_layers import sharing
from mtl_layers._keras import keras

pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install 'mtl_layers[docs]'")

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {page.relative_to(DOCS).as_posix(): page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md")}
DOCUMENTED = {name: page for page, text in PAGES.items() for name in re.findall(r"^::: (\S+)", text, re.MULTILINE)}

pytestmark = [pytest.mark.once, pytest.mark.needs_tensorflow]


def load(name):
    """A program of `docs/`, which is no package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page_parts():
    return load("page_parts")


@pytest.fixture(scope="module")
def figures():
    return load("figures")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site: any warning ends the build."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def public_objects():
    """Every public name with its object: what `__init__` files list."""
    packages = [each.name for each in pkgutil.iter_modules(mtl.__path__, "mtl_layers.") if each.ispkg]
    for package in ["mtl_layers", *packages, "serving"]:
        module = importlib.import_module(package)
        for name in module.__all__:
            if not isinstance(getattr(module, name), type(mtl)):
                yield f"{package}.{name}", getattr(module, name)


def resolve(path):
    """The object that a page documents."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_public_name_has_a_place():
    documented = [resolve(path) for path in DOCUMENTED]
    assert [name for name, each in public_objects() if not any(each is other for other in documented)] == []
    places = re.findall(r"^::: (\S+)", "\n".join(PAGES.values()), re.MULTILINE)
    assert sorted(places) == sorted(set(places)), "documented twice"


def test_every_sharing_layer_has_a_page_with_its_picture(figures):
    layers = [name for name in sharing.__all__ if issubclass(getattr(sharing, name), keras.layers.Layer)]
    pages = {name: DOCUMENTED[f"mtl_layers.{name}"] for name in layers}
    assert set(pages.values()) == {page for page in PAGES if page.startswith("layers/")} - {"layers/index.md"}
    for name, page in pages.items():
        stem = Path(page).stem
        assert PAGES[page].startswith(f"# {name}\n\n![")
        assert f"](../figures/{stem}.svg)\n\n## When to use it\n" in PAGES[page]
        assert 5_000 < (DOCS / "figures" / f"{stem}.svg").stat().st_size < 40_000
    assert {Path(page).stem for page in pages.values()} == set(figures.FIGURES)


def test_the_pictures_can_be_drawn(figures, tmp_path):
    """And are those committed, but for the last digits, which depend on the machine."""
    figures.main(["--output", str(tmp_path)])
    assert {each.name for each in tmp_path.iterdir()} == {each.name for each in (DOCS / "figures").iterdir()}
    for drawn in tmp_path.iterdir():
        committed, drawn = (
            (DOCS / "figures" / drawn.name).read_text(encoding="utf-8"),
            drawn.read_text(encoding="utf-8"),
        )
        assert drawn.endswith("</svg>\n")
        if f"Matplotlib v{matplotlib.__version__}," in committed:
            assert re.sub(r"-?\d+(\.\d+)?", "0", drawn) == re.sub(r"-?\d+(\.\d+)?", "0", committed)


def test_a_picture_follows_the_wiring(figures):
    """PLE's experts belong to the first task, to the second, and to nobody alone."""
    first, last = mtl.PLE(2, 2, 1, 1).wiring().levels
    assert figures.owners(first, True, 2) == figures.owners(last, True, 2) == [0, 1, None]
    assert figures.owners(mtl.MMoE(2, 3).wiring().levels[0], False, 2) == [None] * 3
    assert list(figures.in_order([0, 1, None], 2)) == [pytest.approx(1 / 6), pytest.approx(5 / 6), 0.5]


def test_every_method_of_the_benchmark_is_on_one_page(page_parts):
    named = [
        method
        for text in PAGES.values()
        for part, methods in page_parts.LINE.findall(text)
        if part == "measured"
        for method in methods.split(", ")
    ]
    assert sorted(named) == sorted(METHODS.keys() - {page_parts.BASELINE})


def test_the_site_is_whole_and_needs_nothing_from_elsewhere(site):
    assert {page.relative_to(site).as_posix() for page in site.rglob("*.html")} >= {
        page.replace(".md", ".html") for page in PAGES
    }
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "{{" not in text
        assert re.findall(r"<(?:link|script|img)[^>]+(?:href|src)=\"(?:https?:)?//", text) == []
    for style in site.rglob("*.css"):
        assert re.findall(r"url\([\"']?(?:https?:)?//", style.read_text(encoding="utf-8")) == []


def test_a_layer_page_shows_formula_arguments_and_example(site):
    page = (site / "layers" / "mmoe.html").read_text(encoding="utf-8")
    text = re.sub(r"<[^>]+>", "", page).replace("&gt;", ">").replace("&quot;", '"')
    assert "g_k(x) = softmax(x @ W_k)\ny_k    = sum_e g_k,e(x) f_e(x)" in text
    assert "num_experts=8, hidden_units=(64,), **kwargs" in text
    assert re.search(r"num_experts\s+\W\s+Number of experts, at least 1\. Defaults to 8\.", text)
    assert "Input shape: [batch, dim]." in text
    assert re.search(r"ValueError\s+\W\s+If an argument is out of range", text)
    assert ">>> tuple(mtl.MMoE(num_tasks=2, num_experts=4" in text
    assert 'src="../figures/mmoe.svg"' in page


def test_references_are_of_the_public_names(site, page_parts):
    """Those that a module imports on demand included, and functions rather than the files of their names."""
    serving_page = (site / "serving.html").read_text(encoding="utf-8")
    assert re.findall(r'<h3 id="(serving\.\w+)"', serving_page) == [
        "serving.export",
        "serving.Client",
        "serving.LocalServer",
    ]
    assert page_parts.REFERENCE.sub(page_parts.reference, "::: mtl_layers.MMoE\n::: mtl_layers.freeze\n") == (
        "::: mtl_layers.MMoE\n::: mtl_layers.freeze.freeze\n    options: {heading: mtl_layers.freeze}\n"
    )
    assert 'id="mtl_layers.freeze.trace"' not in (site / "freeze.html").read_text(encoding="utf-8")


def test_sections_of_the_readme_are_on_their_pages(site, page_parts):
    start = (site / "index.html").read_text(encoding="utf-8")
    assert "one ranking model that predicts click, purchase and watch time at once" in start
    assert page_parts.readme_section("What runs where").startswith("| | Keras 3 / TensorFlow")
    assert "\n## " not in page_parts.readme_section("Install and try")
    assert "## How good is that?" in page_parts.readme_section("Install and try")
    with pytest.raises(KeyError, match="No such heading"):
        page_parts.readme_section("No such heading")


def test_measured_rows_come_from_the_results(page_parts, tmp_path):
    assert page_parts.measured("mmoe", tmp_path / "nothing") == ""

    def row(title, click, difference):
        return {
            "title": title,
            "seeds": 3,
            "mean": {"click": click, "summed loss": [1.25, None]},
            "difference": {} if difference is None else {"click": difference, "summed loss": [-0.5, None]},
            "parameters": 12345.6,
        }

    rows = {
        "single_task": row("Single-task", [0.75, 0.001], None),
        "mmoe": row("MMoE", [0.76, 0.002], [0.01, 0.003]),
        "ple": row("PLE", [0.77, 0.002], [0.02, 0.003]),
    }
    numbers = {"kuairand": rows, "census (quick: no result)": rows, "elsewhere": {"ple": rows["ple"]}}
    (tmp_path / "some.json").write_text(json.dumps(numbers))
    assert page_parts.measured("mmoe", tmp_path) == "", "numbers without a report are no result"
    (tmp_path / "some.md").write_text("# Some\n\n![curve](some.png)\n")
    (tmp_path / "beside.json").write_text('{"another": "shape"}')
    text = page_parts.measured("mmoe, omoe", tmp_path)
    assert text.splitlines()[:6] == [
        "## Measured",
        "",
        "| kuairand | click | summed loss | parameters | seeds |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| Single-task | 0.7500 ± 0.0010 | 1.2500 | 12,346 | 3 |",
        "| MMoE | 0.7600 ± 0.0020<br>+0.0100 ± 0.0030 | 1.2500<br>-0.5000 | 12,346 | 3 |",
    ]
    assert "PLE" not in text and "quick" not in text and "elsewhere" not in text
    assert page_parts.measured("omoe", tmp_path) == ""

    (tmp_path / "quality" / "results").mkdir(parents=True)
    (tmp_path / "some.md").rename(tmp_path / "quality" / "results" / "some.md")
    assert page_parts.results("quality", tmp_path) == "## Some\n\n![curve](benchmarks/quality/results/some.png)\n"
    assert page_parts.results("allocation", tmp_path) == ""
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "balancing_some.md").write_text("# Some\n\n![curve](some.png)\n")
    assert page_parts.results("balancing", tmp_path) == "## Some\n\n![curve](benchmarks/results/some.png)\n"


def test_times_are_ratios_to_the_first_of_each_case(page_parts, tmp_path):
    seconds = {"a_step": {"plain": 0.002, "with_it": 0.003}, "deep": {"er": {"one": 0.01, "two": 0.02, "three": 0.005}}}
    report = {"seconds": seconds, "versions": {"keras": "3.0"}, "setting": {"training_batch": 512}}
    (tmp_path / "some.json").write_text(json.dumps(report))
    assert page_parts.ratios("some", tmp_path).splitlines() == [
        "| case | what | ratio | milliseconds |",
        "| --- | --- | ---: | ---: |",
        "| a step | with it / plain | 1.50 | 3.00 / 2.00 |",
        "| deep, er | two / one | 2.00 | 20.00 / 10.00 |",
        "| deep, er | three / one | 0.50 | 5.00 / 10.00 |",
        "",
        "`python -m benchmarks.some`, medians, with keras 3.0; training batch 512.",
    ]


def test_programs_say_what_they_are(page_parts, tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "data.py").write_text('"""Read by others."""')
    (tmp_path / "some" / "run.py").write_text('"""What it does.\n\n    python some/run.py [--quick]\n\nMore.\n"""\n')
    expected = "## run.py\n\n**What it does.**\n\n    python some/run.py [--quick]\n\nMore."
    assert page_parts.programs("some", tmp_path) == expected
    assert "## census_income.py" in page_parts.programs("examples")


def test_docstring_sections():
    for_griffe = load("docstring_sections").for_griffe
    assert for_griffe("Idea.\n\nInput shape: `[batch]`.\nOutput: a dict.\n") == (
        "Idea.\n\n\n**Input shape:** `[batch]`.\n\n**Output:** a dict.\n"
    )
    assert (
        for_griffe("Returns:\n    One thing: two\n    lines.\n\nEnd.") == "**Returns:** One thing: two\nlines.\n\nEnd."
    )
    assert for_griffe("Raises (from `start`):\n    OSError: no.") == "Raises: Raises from start:\n    OSError: no."
    assert for_griffe("Example:\n    >>> 1\n    1\n") == "Examples:\n    >>> 1\n    1\n"
    assert for_griffe("Example:\n\n>>> with a:\n...     b\n1") == "Examples:\n    >>> with a:\n    ...     b\n    1"


# What the code of each page has made; a page with code needs a line here.
CODE = {
    "balancing.md": lambda names: names["model"].balancing is names["balancing"],
    "features.md": lambda names: tuple(names["x"].shape) == (4, 13),
    "freeze.md": lambda names: list(names["only_click"].output) == ["click"],
    "gates.md": lambda names: names["fixed"].gate.static,
    "layers/index.md": lambda names: names["mtl"] is mtl,
    "towers.md": lambda names: [p.shape[1] for p in names["predictions"].values()] == [1, 1, 5],
}


def test_the_code_of_every_page_is_tested():
    assert {page for page, text in PAGES.items() if "```python" in text} == set(CODE)


@pytest.mark.parametrize("page", CODE)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL):
        exec(block.replace("import keras\n", f"import {keras.__name__} as keras\n"), names)
    assert CODE[page](names)


MEASURED = re.compile(r"(?<![\d.])(\d?\.\d+) ± (\.\d+)")


def copied_rows():
    """The rows of tables that repeat what the quality harness measured, each with the pairs `mean ± half` in it."""
    texts = {"README.md": (ROOT / "README.md").read_text(encoding="utf-8"), "results.md": PAGES["results.md"]}
    rows = [(page, line) for page, text in texts.items() for line in text.splitlines() if line.startswith("|")]
    return [
        pytest.param(pairs, id=f"{page}: {line.split('|')[1].strip()}, {pairs[0][0]}")
        for page, line in rows
        if (pairs := MEASURED.findall(line))
    ]


@pytest.mark.parametrize("pairs", copied_rows())
def test_a_row_that_repeats_results_has_the_figures_of_one_method(pairs):
    files = [ROOT / "benchmarks/quality/results" / f"{name}.json" for name in NAMES]
    results = [methods for file in files for methods in json.loads(file.read_text()).values()]

    def found(method, pair):
        means = [mean for methods in results if method in methods for mean in methods[method]["mean"].values()]
        digits = len(pair[1]) - 1
        return any(pair == tuple(f"{number:.{digits}f}".removeprefix("0") for number in mean) for mean in means)

    assert any(all(found(method, pair) for pair in pairs) for method in METHODS)
