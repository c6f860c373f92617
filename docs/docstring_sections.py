"""Our docstrings in the words of Griffe, which reads them for the site; it reads files, and imports nothing."""

import ast
import re
import textwrap

from griffe import Alias, Extension

# Sections of a line or two, which stay paragraphs: only their first words are to stand out.
PARAGRAPHS = re.compile(r"^(Input|Input shape|Output|Output shape|Call arguments|Logs|Source): ", re.MULTILINE)
RETURNS = re.compile(r"^Returns:\n((?:    .+\n?)+)", re.MULTILINE)
RAISES_WHEN = re.compile(r"^Raises \((.+)\):$", re.MULTILINE)
EXAMPLE = re.compile(r"^Example:\n(\n>>> .+)?", re.MULTILINE | re.DOTALL)


def for_griffe(text):
    """A docstring with its sections as Griffe knows them."""
    text = EXAMPLE.sub(lambda found: "Examples:\n" + textwrap.indent((found[1] or "").strip("\n"), "    "), text)
    text = RETURNS.sub(lambda found: "**Returns:** " + textwrap.dedent(found[1]), text)
    text = RAISES_WHEN.sub(lambda found: f"Raises: Raises {found[1]}:".replace("`", ""), text)  # a title is plain
    return PARAGRAPHS.sub(r"\n**\1:** ", text)


class DocstringSections(Extension):
    """Rewrites every docstring as it is read, and finds the names that `serving` imports on demand."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring is not None:
            obj.docstring.value = for_griffe(obj.docstring.value)

    def on_package(self, *, pkg, **kwargs):
        if pkg.name == "serving":
            for name, home in ast.literal_eval(str(pkg["_HOME"].value)).items():
                pkg.set_member(name, Alias(name, f"{home}.{name}"))
