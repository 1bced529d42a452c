"""The looks of the report."""

STYLESHEET = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --soft: #56606b; --line: #d8dde3; --tint: #f4f6f8; --accent: #0b4f8a;
  --note: #fff4e0; --note-line: #c77700;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --ink: #e4e7eb; --soft: #a3adb8; --line: #333a42; --tint: #1c2127; --accent: #7db8ee;
    --note: #2b2213; --note-line: #d99a3d;
  }
  /* Drawings are dark on white: turn lightness round, keep the hue, and let black be the paper. */
  figure img { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  max-width: 60rem; margin: 0 auto; padding: 2.5rem 2rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main:focus { outline: none; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; border-radius: .2rem; }
.skip { position: absolute; left: -99rem; top: .5rem; padding: .5rem 1rem; background: var(--tint); }
.skip:focus { left: 1rem; }
h1 { font-size: 1.85rem; line-height: 1.22; letter-spacing: -.01em; margin: 0 0 .6rem; text-wrap: balance; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 .9rem; scroll-margin-top: 1rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
h1, h2, h3, p, li { overflow-wrap: break-word; }
section { margin-top: 3rem; padding-top: 1.6rem; border-top: 1px solid var(--line); }
p { margin: .45rem 0; max-width: 46rem; }
a { color: var(--accent); text-underline-offset: .15em; }
header p { color: var(--soft); margin: 0; }
header .note {
  margin: 1rem 0 0; padding: .6rem 1rem; max-width: none; color: var(--ink); background: var(--note);
  border-left: .3rem solid var(--note-line); border-radius: .2rem;
}
.key { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0 0; padding: 0; list-style: none; }
.key li { flex: 1 1 12rem; padding: .7rem 1rem; background: var(--tint); border-radius: .4rem; line-height: 1.4; }
.key b { display: block; font-size: 1.6rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
nav { margin: 1.75rem 0 0; }
nav ol { margin: 0; padding: 0; list-style: none; columns: 15rem; column-gap: 2rem; }
nav li { break-inside: avoid; }
nav a { display: inline-block; padding: .15rem 0; }
figure { margin: 1.75rem 0 2.75rem; }
figure img { display: block; width: 100%; max-width: 56rem; height: auto; }
figcaption, caption { color: var(--soft); font-size: .9rem; line-height: 1.45; text-align: left; max-width: 46rem; }
figcaption { margin-top: .6rem; }
figcaption::before { counter-increment: figure; content: "Figure " counter(figure) ". "; font-weight: 600; }
caption { max-width: min(46rem, calc(100vw - 2.5rem)); padding-bottom: .6rem; }
caption::before { counter-increment: table; content: "Table " counter(table) ". "; font-weight: 600; }
body { counter-reset: figure table; }
.wide { overflow-x: auto; }
.wide:has(table) { margin: 1.25rem 0 2.25rem; }
table { min-width: min(100%, 32rem); border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .24rem .65rem; text-align: right; white-space: nowrap; }
tbody th, thead th:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line); vertical-align: bottom; }
tbody { border-bottom: 1px solid var(--line); }
tbody th { font-weight: 600; vertical-align: top; }
tbody tr:hover td { background: var(--tint); }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .3rem 1.25rem; margin: 1rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
pre {
  margin: .75rem 0 1.25rem; padding: .8rem 1rem; background: var(--tint); border-radius: .4rem;
  font: .9rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; user-select: all;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
code { font: inherit; }
@media (max-width: 48rem) {
  body { padding: 1.25rem 1rem 3rem; }
  h1 { font-size: 1.45rem; }
  section { margin-top: 2.25rem; padding-top: 1.25rem; }
  nav ol { columns: 2; column-gap: 1rem; font-size: .95rem; }
  .key { gap: .5rem; }
  .key li { flex-basis: 100%; }
  th, td { padding: .24rem .5rem; }
  /* Small print in a drawing is read by scrolling, and a row by its heading. */
  figure img { width: 46rem; max-width: none; }
  tbody th { position: sticky; left: 0; background: var(--paper); }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; }
}
@media print {
  :root {
    --paper: #ffffff; --ink: #000000; --soft: #444444; --line: #bbbbbb; --tint: #ffffff; --accent: #000000;
    --note: #ffffff;
  }
  @page { margin: 16mm; }
  body { font-size: 10pt; max-width: none; padding: 0; }
  .skip, nav { display: none; }
  h2, h3, caption, thead { break-after: avoid; }
  figure, tbody, dl, pre { break-inside: avoid; }
  figure img {
    filter: none; mix-blend-mode: normal; width: 100%; max-height: 210mm; object-fit: contain; object-position: left;
  }
  .key li, pre { border: 1px solid var(--line); }
  .wide { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: .1rem .35rem; }
  tbody th { position: static; }
}
"""
