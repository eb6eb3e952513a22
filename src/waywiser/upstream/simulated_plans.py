"""How a simulated model breaks a request down into sub-tasks: one chain of tools for each thing asked."""

from __future__ import annotations

from dataclasses import dataclass

from waywiser.core.calls import Tool
from waywiser.upstream.simulated_arguments import Want
from waywiser.upstream.simulated_reading import keywords, stems
from waywiser.upstream.simulated_tools import Reading, chain, goals

_PEOPLE = stems("customer")


@dataclass(frozen=True, slots=True)
class Brief:
    """What the filler knows: the reading, the tools a plan may use, the prompt's explanations, an answer in words.

    `second` makes it take the second-best of a set of choices, as a weaker model sometimes does.
    """

    reading: Reading
    tools: tuple[Tool, ...]
    guidance: str
    text: str
    second: bool = False

    @property
    def topic(self) -> str:
        """What the request is about, in a few of its own words."""
        return keywords(" ".join(clause.text for clause in self.reading.asked), 6)

    @property
    def request(self) -> str:
        """Everything people asked, newest first."""
        return " ".join(clause.text for clause in reversed(self.reading.asked))


@dataclass(frozen=True, slots=True)
class Task:
    """One sub-task of a plan: `after` are the places of the tasks it needs."""

    text: str
    tool: str
    after: tuple[int, ...]


def tasks(brief: Brief) -> list[Task]:
    """Break the request down: one chain of tools for each thing asked; what two chains share is done once."""
    found: dict[tuple[str, str], Task] = {}
    for tool, want in goals(brief.tools, brief.reading.asked, brief.reading.known):
        links = chain(tool, want, brief.tools, brief.reading)
        # who is asking is found out once, whatever is asked
        keys = {link: (link.name, "" if stems(link.name) & _PEOPLE else want.anchor) for link in links}
        for link, sources in links.items():
            order = list(found)
            text = _worded(link, want, brief, last=link is tool)
            found.setdefault(keys[link], Task(text, link.name, tuple(order.index(keys[source]) for source in sources)))
    if found:
        return list(found.values())
    return [Task(clause.text, "", ()) for clause in brief.reading.asked[-3:]] or [Task("Answer the request.", "", ())]


def _worded(link: Tool, want: Want, brief: Brief, *, last: bool) -> str:
    """Word a sub-task so that whoever gets it alone has the ids and the details a person gave."""
    title = link.name.replace("_", " ").capitalize()
    if last:
        about = f"{want.anchor}: " if want.anchor and want.anchor not in want.clause.text else ""
        return f"{title} for: {about}{want.clause.text}"
    if stems(link.name) & _PEOPLE:
        given = [f"{f.kind}: {f.value}" for f in brief.reading.known if f.said and f.kind in {"email", "name", "zip"}]
        return f"{title} by {', '.join(dict.fromkeys(given)) or 'what was said'}"
    return f"{title} {want.anchor}".strip()
