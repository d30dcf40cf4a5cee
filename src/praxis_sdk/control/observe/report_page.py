"""A batch report as one page for people: no script, nothing loaded from elsewhere, light and dark."""

from __future__ import annotations

import html
from typing import Final

from praxis_sdk.control.observe.report_charts import COLOUR, duration_chart, status_chart, timeline_chart
from praxis_sdk.control.observe.reports import (
    BatchReport,
    ReportEntry,
    facts,
    moment,
    plain,
    result_line,
    seconds,
)

# Nothing that an execution wrote can load or run anything, even if it got past the escaping.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"

_STYLE: Final = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1f2328; --soft: #59636e; --line: #d1d9e0;
  --panel: #f6f8fa; --good: #1a7f37; --partial: #9a6700; --bad: #cf222e; --late: #bc4c00; --off: #818b98;
  --busy: #0969da; --lost: #8250df; }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --text: #e6edf3; --soft: #9198a1; --line: #3d444d;
  --panel: #151b23; --good: #3fb950; --partial: #d29922; --bad: #f85149; --late: #f0883e; --off: #7d8590;
  --busy: #4493f8; --lost: #ab7df8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 24px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 32px 0 8px; }
.soft { color: var(--soft); margin: 4px 0 0; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 8px; margin: 20px 0 0; }
dl div { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: 8px 12px; }
dt { color: var(--soft); font-size: 13px; }
dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--text); }
svg text.soft { fill: var(--soft); }
svg line { stroke: var(--line); stroke-width: 1; }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th { text-align: left; color: var(--soft); font-weight: 600; }
th, td { border-bottom: 1px solid var(--line); padding: 5px 12px 5px 0; vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.status { white-space: nowrap; }
td.result { overflow-wrap: anywhere; color: var(--soft); }
code { font: 12.5px ui-monospace, monospace; overflow-wrap: anywhere; }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 6px; }
.good { fill: var(--good); background: var(--good); } .partial { fill: var(--partial); background: var(--partial); }
.bad { fill: var(--bad); background: var(--bad); } .late { fill: var(--late); background: var(--late); }
.off { fill: var(--off); background: var(--off); } .busy { fill: var(--busy); background: var(--busy); }
.lost { fill: var(--lost); background: var(--lost); }
"""


def to_html(report: BatchReport) -> str:
    """Write the report as one self-contained HTML page (spec 4, property 40)."""
    batch = report.batch
    name = _text(batch.name or batch.id)
    state = "complete" if report.complete else "not complete yet"
    tiles = "".join(
        f"<div><dt>{_text(term)}</dt><dd>{_text(value)}</dd></div>" for term, value in facts(report)
    )
    rows = "".join(map(_row, report.entries))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>Batch {name}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Batch {name}</h1>
<p class="soft"><code>{_text(batch.id)}</code>, {state}, as of {_text(moment(report.made_at))}</p>
<dl>{tiles}</dl>
<h2>Statuses</h2>
{status_chart(report)}
<h2>Durations</h2>
{duration_chart(report)}
<h2>Attempts over workers</h2>
{timeline_chart(report)}
<h2>Executions</h2>
<div class="table"><table>
<thead><tr><th>Execution</th><th>Control</th><th>Status</th><th class="number">Duration</th>\
<th class="number">Attempts</th><th>Result</th></tr></thead>
<tbody>{rows}</tbody>
</table></div>
</body>
</html>
"""


def _row(entry: ReportEntry) -> str:
    return (
        f"<tr><td><code>{_text(entry.id)}</code></td><td>{_text(entry.control)}</td>"
        f'<td class="status"><span class="dot {COLOUR[entry.status]}"></span>{_words(entry.status)}</td>'
        f'<td class="number">{_text(seconds(entry.duration_s))}</td><td class="number">{entry.attempts}</td>'
        f'<td class="result">{_text(result_line(entry))}</td></tr>\n'
    )


def _words(status: str) -> str:
    return _text(status.replace("_", " "))


def _text(text: str) -> str:
    return html.escape(plain(text))
