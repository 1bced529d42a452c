"""The looks of the report."""

STYLESHEET = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --soft: #59636e; --line: #d8dde3; --tint: #f4f6f8; --accent: #0b4f8a;
}
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --ink: #e4e7eb; --soft: #9aa4af; --line: #333a42; --tint: #1c2127; --accent: #7db8ee; }
  /* Drawings are dark on white: turn lightness round, keep the hue, and let black be the paper. */
  figure img { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 64rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
header p { color: var(--soft); margin: 0; }
.key { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0 0; padding: 0; list-style: none; }
.key li { flex: 1 1 12rem; padding: .7rem 1rem; background: var(--tint); border-radius: .4rem; }
.key b { display: block; font-size: 1.5rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .5rem; text-wrap: balance; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p { margin: .4rem 0; max-width: 46rem; }
a { color: var(--accent); }
figure { margin: 1.5rem 0 2.25rem; }
figure img { display: block; width: 100%; max-width: 56rem; height: auto; }
figcaption, caption {
  color: var(--soft); font-size: .9rem; line-height: 1.45; text-align: left;
  max-width: min(46rem, calc(100vw - 2rem));
}
figcaption { margin-top: .5rem; }
caption { padding-bottom: .5rem; }
.wide { overflow-x: auto; margin: 1rem 0 1.75rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem .6rem; text-align: right; white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line); vertical-align: bottom; }
tbody { border-bottom: 1px solid var(--line); }
tbody th { font-weight: 600; vertical-align: top; }
tbody tr:hover td { background: var(--tint); }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .25rem 1.25rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  main { padding: 1.25rem .9rem 3rem; }
  h1 { font-size: 1.4rem; }
  th, td { padding: .2rem .45rem; }
}
@media print {
  :root { --paper: #ffffff; --ink: #000000; --soft: #444444; --line: #bbbbbb; --tint: #ffffff; --accent: #000000; }
  @page { margin: 16mm; }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  h2, h3, caption, thead { break-after: avoid; }
  figure, tbody, dl { break-inside: avoid; }
  figure img { filter: none; mix-blend-mode: normal; max-height: 220mm; object-fit: contain; object-position: left; }
  .key li { border: 1px solid var(--line); }
  .wide { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: .1rem .35rem; }
}
"""
