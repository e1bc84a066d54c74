"""How figures look: readable in print, in grey and by the colour-blind; and how they become SVG and PDF."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Okabe and Ito, Color Universal Design, 2008; without yellow, which is lost on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1.5, 1.2)), (0, (8, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*")
WIDTH_IN = 7.2  # two columns of a paper

_RC: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "lines.markeredgewidth": 0.5,
    "lines.markeredgecolor": "white",
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # text stays text: journals ask for it
}


@dataclass(frozen=True)
class Picture:
    """A drawn figure."""

    name: str  # of its file, without suffix
    title: str
    caption: str
    svg: str  # to stand inside a page: no header, no addresses, ids of its own
    pdf: bytes

    def save(self, folder: Path) -> None:
        """As PDF."""
        (folder / f"{self.name}.pdf").write_bytes(self.pdf)


@contextmanager
def styled(name: str) -> Iterator[None]:
    """All that is drawn within looks alike, and comes out alike each time."""
    import matplotlib.style

    salted: Any = {**_RC, "svg.hashsalt": name}
    with matplotlib.style.context(["default", salted]):  # whatever a matplotlibrc says
        yield


def line_style(place: int) -> dict[str, Any]:
    """Of the arm at this place: colour, dashes and marker differ, so that one of them is enough."""
    dashes = DASHES[place % len(DASHES)]
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": dashes, "marker": MARKERS[place % len(MARKERS)]}


def picture(figure: Any, name: str, title: str, caption: str) -> Picture:
    """figure: of matplotlib, drawn within `styled`."""
    svg, pdf = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", bbox_inches="tight", metadata={"Date": None})
    figure.savefig(pdf, format="pdf", bbox_inches="tight", metadata={"CreationDate": None})
    return Picture(name, title, caption, _inline(svg.getvalue(), name, title), pdf.getvalue())


def _inline(svg: str, name: str, title: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()
