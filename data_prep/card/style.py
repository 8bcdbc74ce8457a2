"""The page's look: one column of cards, from a phone to a desk, by day and by night."""

from typing import Final

CSS: Final = """
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #fff; --ink: #191c22; --soft: #5b6270; --line: #e2e5ea;
  --accent: #3b63d8; --tint: #e8edfb; --warn: #9a4a06; --row: 7.4rem;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101216; --card: #191c22; --ink: #e9ebef; --soft: #9ca4b2; --line: #2c313a;
    --accent: #86a4ff; --tint: #222c47; --warn: #f0a860;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: clamp(1rem, 3vw, 2.5rem); max-width: 72rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
header { margin: 0 0 1.5rem; }
h1 { margin: 0; font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; letter-spacing: -.02em; }
h1, h2, td, dd, p { overflow-wrap: anywhere; }
h2 { margin: 0 0 .75rem; font-size: 1.1rem; letter-spacing: -.01em; }
h3 { margin: 0 0 .4rem; font-size: .8rem; font-weight: 600; color: var(--soft); }
p { margin: 0 0 .75rem; }
header p, footer p { margin: 0; }
section > :last-child { margin-bottom: 0; }
.soft { color: var(--soft); }
.small { font-size: .85rem; }
.warn { color: var(--warn); }
code { font: .85em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
section {
  margin: 0 0 1.25rem; padding: clamp(1rem, 2.5vw, 1.5rem); background: var(--card);
  border: 1px solid var(--line); border-radius: 14px;
}
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin: 0 0 1.25rem;
}
.tiles div {
  padding: .8rem 1rem; background: var(--card); border: 1px solid var(--line); border-radius: 14px; min-width: 0;
}
.tiles dt { font-size: .8rem; color: var(--soft); }
.tiles dd {
  margin: 0; font-size: 1.45rem; font-weight: 650; letter-spacing: -.02em; font-variant-numeric: tabular-nums;
}
.tiles dd small { display: block; font-size: .8rem; font-weight: 400; letter-spacing: 0; color: var(--soft); }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1.5rem 2rem; }
.two > * { min-width: 0; }
main > .two { gap: 0 1.25rem; align-items: start; }
section > div + div { margin-top: 1.25rem; }
table { width: 100%; border-collapse: collapse; font-size: .92rem; }
.wide { overflow-x: auto; }
th { font-weight: 600; font-size: .8rem; color: var(--soft); text-align: left; white-space: nowrap; }
.name { min-width: 6rem; }
th, td { padding: .38rem .75rem .38rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
tbody tr:last-child > * { border-bottom: 0; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
.bar { width: 38%; vertical-align: middle; }
.bar i { display: block; height: .6rem; min-width: 2px; border-radius: 3px; background: var(--accent); }
figure { margin: 0; }
.plot svg { display: block; width: 100%; height: auto; max-width: 36rem; }
.plot text { font-family: inherit; }
.pictures { display: flex; flex-wrap: wrap; gap: .75rem .5rem; }
.pictures::after { content: ""; flex: 1000 1 0; }
.pictures figure { position: relative; max-width: 100%; min-width: 0; }
.pictures img, .pictures .none {
  display: block; width: 100%; border-radius: 6px; background: var(--tint); object-fit: cover;
}
.pictures .none { padding: .5rem; font-size: .72rem; line-height: 1.3; color: var(--warn); overflow: hidden; }
.pictures figcaption {
  margin-top: .2rem; font-size: .74rem; line-height: 1.25; color: var(--soft);
  white-space: nowrap; overflow: hidden; text-overflow: ellipsis;
}
footer { color: var(--soft); font-size: .85rem; }
@media (max-width: 30rem) {
  :root { --row: 5.4rem; }
  .bar { width: 26%; }
}
@media print { body { background: none; } section, .tiles div { break-inside: avoid; } }
"""
