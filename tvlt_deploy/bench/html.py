"""A report as one self-contained HTML page."""

from __future__ import annotations

from html import escape

from tvlt_deploy.bench.results import END_TO_END, PARTS, STAGES, BenchResults, BenchRow, error_text, memory_text

_COLOURS = {"decode": "#b07aa1", "image": "#59a14f", "audio": "#edc948", "model": "#4e79a7", "other": "#bab0ac"}
_BAR_WIDTH, _BAR_HEIGHT = 720, 18
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: .5rem 0 1rem; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
.key span { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em; }
p.small { color: #555; font-size: 13px; margin: .1rem 0; }
"""


def page(results: BenchResults) -> str:
    """The HTML document of a benchmark. Every text in it is escaped."""
    title = f"{results.task} on {results.device}"
    key = "".join(f'<span style="background:{colour}"></span>{name}' for name, colour in _COLOURS.items())
    heading = "\n".join(f'<p class="small">{escape(line)}</p>' for line in results.heading())
    workloads = list(dict.fromkeys(row.workload for row in results.rows))
    sections = [_section(results, [row for row in results.rows if row.workload == name]) for name in workloads]
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
            f"<h1>{escape(title)}</h1>\n{heading}",
            f'<p class="key">Median milliseconds of one call:{key}</p>',
            *sections,
            "</body>\n</html>\n",
        ]
    )


def _section(results: BenchResults, rows: list[BenchRow]) -> str:
    longest = max((row.stages[END_TO_END].median for row in rows if row.stages), default=0.0)
    head = "".join(
        f"<th>{title}</th>"
        for title in (
            "backend",
            *PARTS,
            "end to end",
            "p90",
            "p99",
            "repeats",
            "clips/s",
            "memory",
            "vs torch",
            "error",
        )
    )
    remarks = "".join(
        f'<p class="small">{escape(f"{row.name}: {remark}")}</p>\n' for row in rows for remark in row.remarks
    )
    return "\n".join(
        [
            f"<h2>{escape(rows[0].workload)}</h2>",
            *(f'<p class="small">{escape(text)}</p>' for text in results.descriptions(rows[0].workload)),
            *(_bar(row, longest) for row in rows if row.stages),
            f"<table>\n<tr>{head}</tr>",
            *(_cells(results, row) for row in rows),
            f"</table>\n{remarks}",
        ]
    )


def _bar(row: BenchRow, longest: float) -> str:
    """A bar of the stages of the median call, on the same scale for all rows of a workload."""
    medians = {stage: row.stages[stage].median for stage in PARTS if stage in row.stages} | {"other": row.other}
    left, pieces = 0.0, []
    for stage, seconds in medians.items():
        width = _BAR_WIDTH * seconds / longest
        pieces.append(
            f'<rect x="{left:.2f}" width="{width:.2f}" height="{_BAR_HEIGHT}" fill="{_COLOURS[stage]}">'
            f"<title>{stage} {1000 * seconds:.4g} ms</title></rect>"
        )
        left += width
    label = escape(f"{row.name}: {1000 * row.stages[END_TO_END].median:.4g} ms")
    return (
        f'<div>{label}<br><svg width="{_BAR_WIDTH}" height="{_BAR_HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(pieces)}</svg></div>"
    )


def _cells(results: BenchResults, row: BenchRow) -> str:
    cells = [row.name]
    if not row.stages:
        cells.append("not run")
    else:
        whole, ratio = row.stages[END_TO_END], results.speedup(row)
        cells += [f"{1000 * row.stages[stage].median:.4g}" if stage in row.stages else "-" for stage in STAGES]
        cells += [f"{1000 * whole.p90:.4g}", f"{1000 * whole.p99:.4g}", str(whole.repeats), f"{row.throughput:.4g}"]
        cells += [memory_text(row.peak_memory), "-" if ratio is None else f"{ratio:.2f}x", error_text(row)]
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
