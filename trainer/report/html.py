"""HTML that cannot forget to escape: whatever is not `Html` already is text, and becomes safe."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Sequence


class Html(str):
    """Markup. Made by this module only."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str) -> Html:
    """`<name attributes>children</name>`; `class_` is the attribute `class`. Void elements have no children."""
    words = "".join(f' {key.rstrip("_")}="{html.escape(value)}"' for key, value in attributes.items())
    if name in ("img", "meta"):
        return Html(f"<{name}{words}>")
    return Html(f"<{name}{words}>{join(children)}</{name}>")


def join(parts: Iterable[str], separator: str = "") -> Html:
    """Text and markup, one after the other."""
    return Html(html.escape(separator).join(part if isinstance(part, Html) else html.escape(part) for part in parts))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Collection[int] = ()) -> Html:
    """A table in a box that scrolls sideways; the columns `numbers` are set to the right.

    A cell that is markup of a `td` already is taken as it is.
    """

    def row(kind: str, cells: Sequence[str]) -> Html:
        made = [
            cell
            if isinstance(cell, Html) and cell.startswith("<td")
            else tag(kind, cell, **({"class_": "number"} if place in numbers else {}))
            for place, cell in enumerate(cells)
        ]
        return tag("tr", *made)

    body = [row("td", cells) for cells in rows]
    return tag("div", tag("table", tag("thead", row("th", head)), tag("tbody", *body)), class_="scroll")
