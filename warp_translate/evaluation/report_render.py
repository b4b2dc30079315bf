"""Renders a report as a self-contained HTML page and as GitHub Markdown."""

import base64
import re
from typing import Any

import jinja2
from markupsafe import Markup, escape

from warp_translate.evaluation import report_images
from warp_translate.evaluation.report_blocks import (
    Charts,
    Code,
    Document,
    Image,
    Panel,
    Table,
    walk,
)

# Characters with a meaning in Markdown or in the HTML inside it.
_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#$&])")


def page(document: Document) -> str:
    """The report as HTML without scripts or external resources; all its text is escaped."""
    found = [block for block in walk(document.sections) if isinstance(block, Image)]
    addresses = report_images.embedded([image.png for image in found])
    environment = _environment(svg=_svg_address, breakable=_breakable)
    return environment.get_template("report.html").render(
        document=document,
        images={image.name: each for image, each in zip(found, addresses, strict=True)},
    )


def markdown(document: Document) -> str:
    """The report as Markdown; `image_files` are its images."""
    text = _markdown_environment().get_template("report.md.jinja").render(document=document)
    return text.strip() + "\n"


def markdown_table(table: Table) -> str:
    """A table and its notes as Markdown."""
    module: Any = _markdown_environment().get_template("report.md.jinja").module
    return str(module.table(table)).strip()


def image_files(document: Document) -> dict[str, bytes]:
    """The images of the Markdown report, PNG by file name."""
    from warp_translate.evaluation import report_charts  # A table alone needs no matplotlib.

    files = {}
    for block in walk(document.sections):
        if isinstance(block, Charts):
            files[f"{block.name}.png"] = report_charts.render(block.panels, block.legend, "png")
        elif isinstance(block, Image):
            files[f"{block.name}.png"] = block.png
    return files


def _environment(finalize: Any = None, **filters: Any) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("warp_translate.evaluation", "report_page"),
        autoescape=True,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"kind": lambda block: type(block).__name__, **filters}
    return environment


def _markdown_environment() -> jinja2.Environment:
    def escaped(value: object) -> Markup:
        if isinstance(value, Markup):
            return value
        return Markup(_SPECIAL.sub(r"\\\1", " ".join(str(value).split())))

    return _environment(escaped, fenced=_fenced)


def _svg_address(panel: Panel) -> str:
    from warp_translate.evaluation import report_charts

    content = base64.b64encode(report_charts.render([panel])).decode()
    return f"data:image/svg+xml;base64,{content}"


def _breakable(text: str, allowed: bool = True) -> Markup:
    """Escaped text with line break opportunities inside long names."""
    escaped = escape(text)
    return Markup(re.sub("([_/,=.](?=[^ ]))", r"\1<wbr>", str(escaped))) if allowed else escaped


def _fenced(code: Code) -> Markup:
    """A code block whose fence is longer than any fence inside it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code.text)), default=0))
    return Markup(f"{fence}{code.language}\n{code.text}\n{fence}")
