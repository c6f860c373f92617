"""What pages take from elsewhere when the site is built, so that nothing is written twice.

A line of a page may be one of

    {{ readme: A heading }}           the text under that heading of the README
    {{ measured: mmoe, ple }}         "Measured": the rows of these methods in the results, and the baseline's
    {{ results: quality }}            the reports of benchmarks/quality, tables and pictures
    {{ ratios: search_cost }}         the medians of a program of benchmarks/ that measures time, each by the first's
    {{ programs: examples }}          what the programs in examples/ say of themselves

Without a committed result the second and third leave nothing behind.
"""

import ast
import json
import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "quality" / "results"
BASELINE = "single_task"
LINE = re.compile(r"^\{\{ (\w+): (.+) \}\}$", re.MULTILINE)
REFERENCE = re.compile(r"^::: (\S+\.(\w+))$", re.MULTILINE)


def on_files(files, config):
    """The pictures of the README and of the results are the site's, too; and the colours of code."""
    for picture in [*ROOT.glob("examples/*.png"), *ROOT.glob("benchmarks/**/results/*.png")]:
        files.append(File.generated(config, picture.relative_to(ROOT).as_posix(), abs_src_path=str(picture)))
    files.append(File.generated(config, "pygments.css", content=HtmlFormatter().get_style_defs(".highlight")))
    return files


def on_page_markdown(markdown, page, config, files):
    parts = {"readme": readme_section, "measured": measured, "results": results, "ratios": ratios, "programs": programs}
    try:
        return REFERENCE.sub(reference, LINE.sub(lambda line: parts[line[1]](line[2]), markdown))
    except KeyError as error:
        raise PluginError(f"{page.file.src_uri}: nothing is called {error}") from None


def reference(line):
    """The line that asks for an object's reference; of a function with the name of its file, and not of the file."""
    if not (ROOT / line[1].replace(".", "/")).with_suffix(".py").exists():
        return line[0]
    return f"{line[0]}.{line[2]}\n    options: {{heading: {line[1]}}}"


def readme_section(heading, readme=ROOT / "README.md"):
    """The text between a heading of the README and the next one of its level; the title's ends at the first."""
    parts = re.split(r"(?:\A#|^##) (.+)$", readme.read_text(encoding="utf-8"), flags=re.MULTILINE)
    section = dict(zip(parts[1::2], parts[2::2], strict=True))[heading].strip()
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", section)  # folders of the repository are no pages


def measured(methods, folder=RESULTS):
    """A table for each data set with the baseline and these methods, under a heading; nothing where there is no row."""
    methods, tables = re.split(r",\s*", methods), []
    for report in sorted(folder.glob("*.md")):  # its numbers lie beside it
        for dataset, rows in json.loads(report.with_suffix(".json").read_text(encoding="utf-8")).items():
            if not isinstance(rows, dict):  # a study of something else than methods
                continue
            found = {method: rows[method] for method in [BASELINE, *methods] if method in rows}
            if found.keys() - {BASELINE} and "(quick" not in dataset:
                tables.append(_table(dataset, found))
    if not tables:
        return ""
    note = (
        "Test rows: the AUC of binary tasks, the squared error of others; ± half of the 95 % t-interval over seeds. "
        "Below a mean is its difference from single-task networks, paired by seed. Parameters are those above the "
        "embeddings. How it was measured, and all other methods: [results](../results.md)."
    )
    return "\n\n".join(["## Measured", *tables, note])


def _table(dataset, rows):
    measures = list(next(iter(rows.values()))["mean"])
    lines = [[dataset, *measures, "parameters", "seeds"], ["---", *["---:"] * (len(measures) + 2)]]
    for row in rows.values():
        cells = [_cell(row["mean"][m], row["difference"].get(m)) for m in measures]
        lines.append([row["title"], *cells, f"{row['parameters']:,.0f}", str(row["seeds"])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(mean, difference):
    cell = _number(*mean)
    return cell if difference is None else f"{cell}<br>{_number(*difference, signed=True)}"


def _number(mean, half, signed=False):
    text = f"{mean:{'+' if signed else ''}.4f}"
    return text if half is None else f"{text} ± {half:.4f}"


def results(program, folder=ROOT / "benchmarks"):
    """The reports of a benchmark one after the other, their pictures found from a page at the top.

    A benchmark of several files has its own folder of results, one of a single file puts its name before theirs.
    """
    own = (folder / program).is_dir()
    place = f"{program}/results" if own else "results"
    files = sorted((folder / place).glob("*.md" if own else f"{program}_*.md"))
    text = "\n\n".join(file.read_text(encoding="utf-8") for file in files)
    return re.sub(r"^# ", "## ", text, flags=re.MULTILINE).replace("](", f"](benchmarks/{place}/")


def ratios(program, folder=ROOT / "benchmarks" / "results"):
    """A table of what was timed: in each case everything but the first, as a ratio to the first."""
    report = json.loads((folder / f"{program}.json").read_text(encoding="utf-8"))
    lines = [["case", "what", "ratio", "milliseconds"], ["---", "---", "---:", "---:"]]
    for case, seconds in _cases(report["seconds"]):
        (first, base), *others = seconds.items()
        for name, value in others:
            lines.append([case, f"{name} / {first}", f"{value / base:.2f}", f"{1e3 * value:.2f} / {1e3 * base:.2f}"])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("_", " ")
    versions = ", ".join(f"{name} {value}" for name, value in report["versions"].items())
    setting = ", ".join(f"{name} {value}" for name, value in report["setting"].items()).replace("_", " ")
    return f"{table}\n\n`python -m benchmarks.{program}`, medians, with {versions}; {setting}."


def _cases(tree, path=()):
    """The innermost dicts, each with the keys above it as its name."""
    if all(isinstance(value, dict) for value in tree.values()):
        for key, below in tree.items():
            yield from _cases(below, (*path, key))
    else:
        yield ", ".join(path), tree


def programs(folder, root=ROOT):
    """The docstrings of a folder's programs, the first line in bold; files that others import are left out."""
    sections = []
    for file in sorted((root / folder).glob("*.py")):
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        if f"python {folder}/{file.name}" in text:
            idea, _, more = text.partition("\n")
            sections.append(f"## {file.name}\n\n**{idea}**\n{more}")
    return "\n\n".join(sections)
