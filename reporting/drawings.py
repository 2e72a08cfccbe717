"""Elements of the page (reporting/page.py): HTML that is safe, tables, and a line of dots as SVG.

`tag` makes each element and escapes all text in it. A drawing is an image with a text alternative; its marks have
titles, which the browser shows, or at once the script of reporting/page.html.
"""

import html
from itertools import groupby

import numpy as np

from reporting import tables

# ------------------------------------------------------------------------------------------ elements


class Html(str):
    """Text that is HTML already."""


def escape(value):
    """HTML of a value: its text escaped, or as it is if it is Html."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def tag(name, *content, **attributes):
    """An element; `class_` and `aria_label` become class and aria-label, and None is left out."""
    given = {key.strip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    start = "".join(f' {key}="{html.escape(str(value))}"' for key, value in given.items())
    return Html(f"<{name}{start}>{''.join(map(escape, content))}</{name}>")


def titled(name, title, *content, **attributes):
    """An element of SVG with a title."""
    return tag(name, tag("title", title), *content, **attributes)


def table(caption, header, rows, notes=(), kind="sortable"):
    """A table that scrolls by itself, with its notes; cells are text or elements, a header as tables.RESULT_HEADER."""
    *above, names = tables.header_lines(header)
    heads = [[tag("th", name, scope="col") for name in names]]
    if above:
        groups = [(text, len(list(its))) for text, its in groupby(name.rpartition("\n")[0] for name in header)]
        heads.insert(
            0, [tag("th", text, colspan=n, scope="colgroup") if text else tag("td", colspan=n) for text, n in groups]
        )
    body = [
        [cell if isinstance(cell, Html) else tag("td", cell) if i else tag("th", cell, scope="row")
         for i, cell in enumerate(row)]
        for row in rows
    ]  # fmt: skip
    parts = [tag(name, *(tag("tr", *cells) for cells in lines)) for name, lines in (("thead", heads), ("tbody", body))]
    whole = tag("table", tag("caption", tag("span", caption)), *parts, class_=kind)
    below = tag("div", *(tag("div", note) for note in notes), class_="notes") if notes else ""
    return Html(tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption) + below)


def shaded(text, shade, **attributes):
    """A cell with a shade from 0 to 1; none of NaN, which stands for no utterances."""
    if np.isnan(shade):
        return tag("td", "-", **attributes)
    return tag("td", text, style=f"--p:{100 * shade:.0f}", **attributes)


def scale(values, count):
    """Round numbers from below all values to above them, about `count`."""
    low, high = float(min(values)), float(max(values))
    steps = (factor * 10.0**power for power in range(-6, 7) for factor in (1, 2, 5))
    step = next(step for step in steps if ((high - low) or 1) / step <= count - 1)
    first = int(np.floor(low / step))
    return [step * i for i in range(first, max(first + 1, int(np.ceil(high / step))) + 1)]


# ---------------------------------------------------------------------------------------------- dots

MEAN = tag("circle", r=4.5, class_="mean")
SPEAKER = tag("circle", r=3.5, class_="speaker")
PUBLISHED = tag("path", d="M0 -6 6 0 0 6 -6 0z", class_="published")


def key(**marks):
    """What marks of a class mean; marks: class -> (text, shape around the origin), or text for that of a line."""
    parts = []
    for kind, mark in marks.items():
        text, shape = (mark, tag("line", x1=-10, x2=10, class_=kind)) if isinstance(mark, str) else mark
        parts.append(tag("span", tag("svg", tag("svg", shape, x=11, y=7), aria_hidden="true"), text))
    return tag("p", *parts, class_="key muted")


def at(value, ticks):
    """Position between the first and the last tick, as a part of the width."""
    return f"{100 * (value - ticks[0]) / (ticks[-1] - ticks[0]):.2f}%"


def dots(name, marks, interval, ticks, chance):
    """A method's line in the chart; marks: [(shape, y, text, value)], interval: (low, high) or None."""
    lines = [(tick, "gridline") for tick in ticks] + [(chance, "chance")]
    parts = [tag("line", x1=at(v, ticks), x2=at(v, ticks), y1=0, y2="100%", class_=kind) for v, kind in lines]
    words = [f"{text} {tables.percent(value)}" for _, _, text, value in marks]
    if interval:
        words.insert(1, f"95 % interval over speakers {interval[0]:.2f} to {interval[1]:.2f}")
        x1, x2 = at(interval[0], ticks), at(interval[1], ticks)
        parts.append(titled("line", words[1], x1=x1, x2=x2, y1=12, y2=12, class_="interval"))
    for shape, y, text, value in marks:
        parts.append(tag("svg", titled("g", f"{text} {tables.percent(value)}", shape), x=at(value, ticks), y=y))
    return tag("svg", *parts, height=36, role="img", tabindex=0, aria_label=f"{name}: {'; '.join(words)}")


def dots_axis(label, ticks):
    """The head of the chart: a label and the ticks."""
    texts = [tag("text", f"{tick:g}", x=at(tick, ticks), y=27, text_anchor="middle") for tick in ticks]
    return tag("svg", tag("text", label, x="50%", y=11, text_anchor="middle"), *texts, height=32)
