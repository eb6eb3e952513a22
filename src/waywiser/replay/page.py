"""The report as one HTML page: nothing is loaded from anywhere, light and dark follow the reader's system."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from waywiser.replay.comparison import Comparison
from waywiser.replay.outcomes import Frontier, Point
from waywiser.replay.plots import Bar, Dot, bars, histogram, legend, scatter, usd
from waywiser.replay.totals import NANOS, Problems, Totals, interval, ratio
from waywiser.replay.unknowns import unknowns

_STYLE = """
:root{--paper:#fbfaf7;--card:#fff;--ink:#1d2430;--muted:#68707d;--rule:#e3e0d8;--good:#1f7a4d;--bad:#b3362b;
--c1:#2f6f8f;--c2:#d98a2b;--c3:#7a5ea8;--c4:#4f9d69;--c5:#b65a7a;--c6:#8a8f98}
@media(prefers-color-scheme:dark){:root{--paper:#14181f;--card:#1c222c;--ink:#e6e9ee;--muted:#98a2b0;--rule:#2d3542;
--good:#63c493;--bad:#f0857a;--c1:#5ba7cc;--c2:#e8a854;--c3:#a98fd6;--c4:#7cc796;--c5:#d98aa6;--c6:#8a94a3}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:880px;margin:0 auto;padding:40px 24px 80px}h1{font-size:30px;margin:0 0 4px;letter-spacing:-.02em}
h2{font-size:19px;margin:44px 0 6px}p{margin:6px 0 14px}.lead,.note{color:var(--muted)}.note{font-size:14px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(180px,1fr));gap:14px;margin:26px 0}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:16px 18px}
.tile b{display:block;font-size:27px;line-height:1.2;letter-spacing:-.02em}.tile span{color:var(--muted);font-size:14px}
figure{background:var(--card);border:1px solid var(--rule);border-radius:10px;margin:12px 0;padding:16px}
svg{width:100%;height:auto;display:block;font:13px system-ui,sans-serif}svg text{fill:var(--muted)}
svg .strong{fill:var(--ink);font-weight:600}.grid{stroke:var(--rule)}.axis{stroke:var(--muted)}
.legend{margin:2px 0 8px;font-size:14px}.key{margin-right:18px;white-space:nowrap}
.key i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:6px}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:14.5px;font-variant-numeric:tabular-nums}
th{text-align:left;color:var(--muted);font-weight:500}td,th{padding:6px 10px;border-bottom:1px solid var(--rule)}
td.n,th.n{text-align:right}.verdict{border-left:4px solid var(--good);padding:2px 14px;margin:16px 0}
.verdict.no{border-color:var(--bad)}
"""


def page(
    totals: Sequence[Totals],
    problems: Problems,
    *,
    source: str,
    comparison: Comparison | None = None,
    frontier: Frontier | None = None,
) -> str:
    """Write the whole page. `totals` holds the policy's, then those of the one it is compared with, if any."""
    ours = totals[0]
    sections = [
        f"<h1>{escape(ours.policy)}, replayed</h1>",
        _lead(ours, source),
        _tiles(ours),
        _verdict(comparison),
        _courses(totals),
        _distribution(totals),
        _where(ours),
        _moves(ours),
        _stops(totals),
        _comparison(comparison, totals),
        _frontier(frontier),
        _checked(ours),
        _unknown(ours, problems),
    ]
    title = escape(f"{ours.policy}, replayed")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{title}</title><style>{_STYLE}</style></head><body><main>'
        + "".join(filter(None, sections))
        + "</main></body></html>\n"
    )


def _lead(totals: Totals, source: str) -> str:
    return (
        f'<p class="lead">{totals.sessions:,} recorded sessions with {totals.calls:,} model calls from '
        f"{escape(source)}. Nobody was called.</p>"
    )


def _tiles(totals: Totals) -> str:
    share, recorded = ratio(totals.cost, totals.top), ratio(totals.cost_where_recorded, totals.recorded)
    tiles = [(usd(totals.cost / NANOS), "under this policy")]
    if share is not None:
        tiles.append((f"{share:.0%}", f"of the top tier alone ({usd(totals.top / NANOS)})"))
    if recorded is not None:
        tiles.append((f"{recorded:.0%}", f"of what was recorded ({usd(totals.recorded / NANOS)})"))
    stopped = sum(totals.stopped.values())
    tiles.append((f"{stopped:,}", f"sessions stopped, {sum(totals.stopped_successes.values()):,} of them successful"))
    return f'<div class="tiles">{"".join(f"<div class=tile><b>{a}</b><span>{b}</span></div>" for a, b in tiles)}</div>'


def _verdict(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    against = comparison.against()
    said = "; ".join(against) if against else "it costs no more than was allowed and stops no successful session"
    return (
        f'<div class="verdict{" no" if against else ""}"><p><b>'
        f"{'Does not hold' if against else 'Holds'}</b> against the policy in force: {escape(said)}.</p></div>"
    )


def _courses(totals: Sequence[Totals]) -> str:
    rows = []
    for number, one in enumerate(totals):
        mean_95 = interval(one.costs, None)
        whisker = None if mean_95 is None else (mean_95[0] * one.sessions, mean_95[1] * one.sessions)
        parts = (("", (one.cost - one.cold) / NANOS), ("cold prefixes", one.cold / NANOS))
        rows.append(Bar("this policy" if not number else "in force", parts, whisker))
    ours = totals[0]
    if ours.recorded_sessions == ours.sessions:
        rows.append(Bar("as recorded", (("", ours.recorded / NANOS),)))
    rows.append(Bar("top tier alone", (("", ours.top / NANOS),)))
    some = ours.sessions - ours.recorded_sessions
    note = f" What {some:,} sessions cost is not recorded, so that bar is left out." if some else ""
    return (
        "<h2>What it costs</h2>"
        "<p class=note>All sessions together. The lines are 95% intervals: how much another sample of as many sessions "
        f"might differ. Cold prefixes are what moving a conversation to another model cost.{note}</p><figure>"
        + legend([("cost", 0), ("cold prefixes", 1)])
        + bars(rows, shades={"": 0, "cold prefixes": 1}, caption="cost of each course")
        + "</figure>"
    )


def _distribution(totals: Sequence[Totals]) -> str:
    series = [("this policy", totals[0].costs), ("top tier alone", totals[0].tops)]
    if len(totals) > 1:
        series.append(("policy in force", totals[1].costs))
    quantiles = totals[0].quantiles()
    said = ", ".join(f"{share:.0%} cost at most {usd(value)}" for share, value in quantiles.items() if share >= 0.5)
    return (
        f"<h2>What a session costs</h2><p class=note>{said}.</p><figure>"
        + legend([(name, index) for index, (name, _) in enumerate(series)])
        + histogram(series, caption="how many sessions cost how much")
        + "</figure>"
    )


def _where(totals: Totals) -> str:
    tiers = list(dict.fromkeys(row.tier for row in totals.by("tier") if row.tier))
    shades = {tier: index for index, tier in enumerate(tiers)}
    rows = []
    for kind in totals.by("kind"):
        parts = [row for row in totals.by("kind", "tier") if row.kind == kind.kind and row.nanos]
        rows.append(Bar(kind.kind or "refused", tuple((row.tier, row.nanos / NANOS) for row in parts)))
    table = _table(
        ("kind", "tier", "model", "calls", "cost", "share"),
        [
            (
                row.kind or "—",
                row.tier or "—",
                row.model,
                f"{row.calls:,}",
                usd(row.nanos / NANOS),
                _share(row.nanos, totals),
            )
            for row in totals.by("kind", "tier", "model")
        ],
        numbers=3,
    )
    return (
        "<h2>Where it goes</h2><figure>"
        + legend(list(shades.items()))
        + bars(rows, shades=shades, caption="cost by kind and tier")
        + f"</figure>{table}"
    )


def _moves(totals: Totals) -> str:
    each = f", {usd(totals.cold / NANOS / totals.switches)} each" if totals.switches else ""
    return (
        f"<p>{totals.switches:,} times a conversation moved to another model; its cold prefixes cost "
        f"{usd(totals.cold / NANOS)}{each}. {totals.reveals:,} steps revealed themselves on a cheap tier first.</p>"
    )


def _stops(totals: Sequence[Totals]) -> str:
    ours = totals[0]
    if not ours.stopped:
        return "<h2>Whom it stops</h2><p>No session was stopped, by budget or by loop.</p>"
    rows = [
        (by, f"{count:,}", f"{ours.stopped_successes[by]:,}", f"{ours.stopped_failures[by]:,}")
        for by, count in ours.stopped.most_common()
    ]
    return (
        "<h2>Whom it stops</h2>"
        f"<p class=note>What had been successful would have been cut short. Going on under the same policy would have "
        f"cost {usd(ours.saved / NANOS)} more.</p>"
        + _table(("stopped by", "sessions", "had been successful", "had failed"), rows, numbers=1)
    )


def _comparison(comparison: Comparison | None, totals: Sequence[Totals]) -> str:
    if comparison is None or len(totals) < 2:
        return ""
    told = comparison.as_json()
    band = comparison.increase_95()
    between = f" (95%: {band[0]:+.1%} to {band[1]:+.1%})" if band else ""
    rows = [(name, f"{more:+.4f}") for more, name in sorted(comparison.dearest, reverse=True)[:10] if more > 0]
    dearest = _table(("session", "more, USD"), rows, numbers=1) if rows else ""
    return (
        f"<h2>Against {escape(totals[1].policy)}</h2>"
        f"<p>It costs {comparison.increase:+.1%}{between}: {told['sessions_cheaper']:,} sessions are cheaper, "
        f"{told['sessions_dearer']:,} dearer, {told['sessions_equal']:,} the same. It stops "
        f"{comparison.newly_stopped:,} sessions that the other lets go on, {comparison.newly_stopped_successes:,} of "
        f"them successful, and lets go on {comparison.no_longer_stopped:,} that the other stops.</p>{dearest}"
    )


def _frontier(found: Frontier | None) -> str:
    if found is None:
        return ""
    dots = [_dot(one, 0) for one in found.singles]
    dots += [Dot(one.cost, one.success, "", 1) for one in found.sweep]
    dots.append(_dot(found.policy, 1))
    dots.append(_dot(found.oracle, 3))
    return (
        "<h2>What quality costs</h2>"
        f"<p>{escape(found.said)}</p><p class=note>{found.tasks} tasks with an outcome of every model. Small dots: the "
        "choice at other thresholds. The dashed line is what mixing single models by chance reaches; the oracle knows "
        "the outcomes. Lines are 95% intervals over tasks.</p><figure>"
        + legend([("single models", 0), ("choice by the first message", 1), ("oracle", 3)])
        + scatter(dots, line=found.line, axes=("cost of a task", "success"), caption="cost and success")
        + "</figure>"
    )


def _dot(point: Point, group: int) -> Dot:
    return Dot(point.cost, point.success, point.name, group, point.cost_95, point.success_95)


def _checked(totals: Totals) -> str:
    if not totals.reproduced:
        return ""
    rows = [
        (
            model,
            f"{calls:,}",
            usd(told / NANOS),
            usd(simulated / NANOS),
            f"{simulated / told - 1:+.1%}" if told else "—",
        )
        for model, (calls, told, simulated) in sorted(totals.reproduced.items())
    ]
    return (
        "<h2>Is the simulated cache right?</h2><p class=note>What the recording's own tokens come to on the recorded "
        "model, against the costs it recorded.</p>"
        + _table(("recorded model", "calls", "recorded", "simulated", "off by"), rows, numbers=1)
    )


def _unknown(totals: Totals, problems: Problems) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in unknowns(totals, problems))
    return f"<h2>What cannot be known</h2><ul class=note>{items}</ul>"


def _share(nanos: int, totals: Totals) -> str:
    return f"{ratio(nanos, totals.cost) or 0:.1%}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int) -> str:
    """Write a table; columns from `numbers` on are numbers."""

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if index >= numbers else ''}>{escape(cell)}</{tag}>" for index, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{cells(header, "th")}</tr>{body}</table></div>'
