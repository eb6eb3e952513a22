"""What a replay cannot know, in sentences: the same for the terminal and for the page."""

from __future__ import annotations

from waywiser.replay.totals import Problems, Totals

QUALITY = (
    "Replies are not made anew: another model might have said something else, needed more steps or fewer, or failed. "
    "Quality is not simulated, and checks of replies count as passed."
)


def unknowns(totals: Totals, problems: Problems) -> list[str]:
    """Say what was not simulated, estimated, or left out."""
    said = [QUALITY]
    if totals.estimated:
        said.append(
            f"{totals.estimated:,} of {totals.calls:,} calls have no recorded usage: their tokens are estimated."
        )
    if len(totals.formats) > 1:
        said.append(
            "Formats are mixed: " + ", ".join(f"{n:,} {name}" for name, n in totals.formats.most_common()) + "."
        )
    if totals.tenants_limited:
        said.append("Each session is replayed by itself: limits over all sessions of a tenant stop nothing here.")
    if totals.untimed:
        said.append(
            f"{totals.untimed:,} of {totals.sessions:,} sessions have no times: limits in seconds and the ageing of "
            "prompt caches are not simulated there."
        )
    if totals.unknown_models:
        names = ", ".join(f"{name} ({count:,})" for name, count in totals.unknown_models.most_common(8))
        said.append(f"Models the catalogue does not know, by sessions: {names}.")
    unpriced = totals.sessions - totals.recorded_sessions
    if unpriced:
        said.append(
            f"What {unpriced:,} sessions cost is not recorded; they are left out of comparisons with the recording."
        )
    if totals.priced_sessions:
        said.append(
            f"{totals.priced_sessions:,} sessions have tokens but no costs: the catalogue prices what was recorded."
        )
    said += [f"{count:,} left out: {why}." for why, count in problems.dropped.most_common()]
    if problems.broken:
        first = "; ".join(f"{one.place}: {one.why}" for one in problems.named[:3])
        said.append(f"{problems.broken:,} could not be read and are left out of every total. The first: {first}.")
    return said
