"""How pages look, in light and in dark. The pictures take their colours from the same names."""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark; --font: system-ui, "Segoe UI", Roboto, "Noto Sans", "PingFang SC", "Microsoft YaHei",
  "Noto Sans CJK SC", "WenQuanYi Micro Hei", sans-serif;
  --paper: #fdfdfc; --ink: #1d2125; --soft: #63696f; --line: #d9dcdf; --panel: #f3f4f4;
  --c0: #2468b0; --c1: #c4560f; --c2: #2c8548; --c3: #8647ad; --c4: #a8842c; --c5: #b03a5b;
  --c6: #3b8b96; --c7: #6d747a; }
@media (prefers-color-scheme: dark) { :root { --paper: #16191c; --ink: #e4e6e8; --soft: #9ba2a9; --line: #363c42;
  --panel: #1f2428; --c0: #6ba9ea; --c1: #ee9256; --c2: #66c184; --c3: #c08ae4; --c4: #d5b458; --c5: #ec7d9c;
  --c6: #6fc4ce; --c7: #a4abb2; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 var(--font); }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
.lead { font-size: 1.1rem; }
p.note, p.warning { padding: .6rem .9rem; background: var(--panel); border-left: 4px solid var(--c0); }
p.warning { border-left-color: var(--c1); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; font-size: .9rem; }
a { color: var(--c0); }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .92rem; }
caption, .soft { text-align: left; color: var(--soft); font-size: .88rem; padding-bottom: .3rem; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
.long { overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.strong td { font-weight: 600; }
.matrix th, .matrix th.upright { vertical-align: bottom; }
.upright span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 14rem; }
.matrix td { padding: .3rem .6rem; text-align: right; font-variant-numeric: tabular-nums; }
.matrix th.upright { vertical-align: bottom; }
.upright span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 14rem; }
.matrix td { background: color-mix(in srgb, var(--c0) calc(var(--share) * 65%), transparent);
  border: 1px solid var(--paper); }
figure { margin: 1rem 0; }
figure svg { max-width: 100%; height: auto; color: var(--ink); }
figure svg text { font-family: var(--font) !important; }
figcaption { color: var(--soft); font-size: .88rem; }
pre { overflow-x: auto; padding: .8rem; background: var(--panel); font-size: .82rem; line-height: 1.4; }
details { margin: .75rem 0; }
summary { cursor: pointer; color: var(--c0); }
.sample { margin: .9rem 0; padding: .5rem .9rem; background: var(--panel); border-left: 4px solid var(--c7); }
.sample.right { border-left-color: var(--c2); }
.sample.wrong { border-left-color: var(--c5); }
.sample dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem .9rem; margin: .3rem 0 0; }
.sample dt { color: var(--soft); }
.sample dd { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
.where { margin: 0; font-size: .85rem; color: var(--soft); overflow-wrap: anywhere; }
.sample.right b { color: var(--c2); }
.sample.wrong b { color: var(--c5); }
@media (max-width: 36rem) { .sample dl { grid-template-columns: 1fr; } }
@media print { main { max-width: none; } .sample, figure { break-inside: avoid; } }
"""
