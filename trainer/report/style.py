"""The report's style sheet: legible on a screen of any width and on paper, with nothing to load."""

from typing import Final

CSS: Final = """
:root { color-scheme: light; --ink: #1b1f24; --dim: #59636e; --rule: #d5dae0; --wash: #f4f6f8; --mark: #fff1c2; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 82rem; background: #fff; color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { margin: 0; font-size: 1.75rem; line-height: 1.2; }
h2 { margin: 2.5rem 0 .5rem; padding-top: 1rem; border-top: 2px solid var(--ink); font-size: 1.35rem; }
h3 { margin: 2rem 0 .5rem; font-size: 1.1rem; }
p, figcaption { max-width: 50rem; }
.dim, figcaption { color: var(--dim); font-size: .875rem; }
figure { margin: 1rem 0 1.75rem; max-width: 56rem; break-inside: avoid; }
figure img { display: block; width: 100%; height: auto; }
.scroll { overflow-x: auto; margin: .5rem 0 1rem; }
table { border-collapse: collapse; font-size: .8125rem; line-height: 1.4; }
th, td { padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
th.number { white-space: normal; }
th { border-bottom-color: var(--ink); color: var(--dim); font-weight: 600; vertical-align: bottom; }
tbody tr:hover { background: var(--wash); }
td:first-child { min-width: 8rem; overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.once { white-space: nowrap; }
.words { min-width: 10rem; max-width: 24rem; }
.differs { background: var(--mark); font-weight: 600; }
.differs::after { content: "\\00a0*"; }
code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .9em; }
details { margin: .5rem 0; }
summary { cursor: pointer; color: var(--dim); }
@media print { body { max-width: none; padding: 0; font-size: 11px; } .scroll { overflow: visible; }
  thead { display: table-header-group; } tr { break-inside: avoid; } }
"""
