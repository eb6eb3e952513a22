"""Replay one session: every recorded call through the real pipeline, until the policy would have stopped it.

Beside the policy two other courses are priced: the top tier's first model for every call, with its prefix warm; and
what was recorded, with the same simulated cache, so that the cache can be checked against costs that are known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

from waywiser.core.calls import Call, Usage
from waywiser.core.conclude import NOTICE_MODEL
from waywiser.core.flow import Done
from waywiser.core.messages import Message
from waywiser.core.models import Model, cost_nanos
from waywiser.core.policy import BudgetRule, Policy
from waywiser.core.receipt import Receipt
from waywiser.ports import Classifier
from waywiser.replay.driver import Course, Driver
from waywiser.replay.measures import DEFAULT_ENCODING, Measures, day_of, model_named
from waywiser.replay.prompt_cache import PromptCache
from waywiser.replay.recording import Recorded, Session
from waywiser.replay.result import Decision, Reproduced, SessionResult, Spent, Stopped

SPACING_S = 2.0
"""Between calls whose times were not recorded. Limits in seconds are then not simulated."""

EPOCH_S = 1_700_000_000.0

_WHY_STOPPED = {"budget_exceeded": "budget", "loop_detected": "loop"}


@dataclass(slots=True)
class _Sums:
    """What adds up while a session is replayed."""

    cost: int = 0
    top: int = 0
    top_made: int = 0
    saved: int = 0
    switches: int = 0
    cold: int = 0
    reveals: int = 0
    changed: int = 0
    made: int = 0


def replay(session: Session, policy: Policy, classifier: Classifier, *, decisions: bool = False) -> SessionResult:
    """Replay a session under a policy. Raises `BadInput` for a history that no model could take."""
    timed = all(call.at_s is not None for call in session.calls)
    measures = Measures()
    driver = Driver(policy if timed else _timeless(policy), classifier, measures)
    top_model, top_cache = policy.tiers[-1].models[0], PromptCache()
    sums, spent = _Sums(), dict[tuple[str, str, str], Spent]()
    stopped: Stopped | None = None
    noted: list[Decision] = []
    before: tuple[Model, int] | None = None
    for index, recorded in enumerate(session.calls):
        now_s = _time(recorded, index)
        model = model_named(recorded.model, day_of(recorded.at_s, _today()))
        encoding = model.encoding if model is not None else DEFAULT_ENCODING
        top_usage = top_cache.usage(
            top_model,
            recorded,
            measures.prompt_tokens(recorded, top_model.encoding, encoding),
            measures.answer_tokens(recorded, top_model.encoding, encoding),
            now_s,
        )
        top = cost_nanos(top_model, top_usage)
        sums.top += top
        call = _call(session, recorded, index)
        course = driver.drive(recorded, call, encoding, now_s)
        done = _done(course)
        receipt = done.receipt
        if stopped is not None:
            sums.saved += receipt.cost_nanos
            continue
        sums.top_made += top
        sums.made += int(bool(course.sends))
        sums.cost += receipt.cost_nanos
        _book(spent, receipt)
        sums.reveals += sum(attempt.failure == "revealed" for attempt in receipt.attempts)
        if course.sends:
            landed, usage = course.sends[-1]
            if before is not None and before[0].name != landed.name:
                sums.switches += 1
                sums.cold += _cold(landed, usage, before[1])
            before = (landed, usage.input_tokens)
        sums.changed += int(model is not None and bool(receipt.model) and receipt.model != model.name)
        if decisions:
            noted.append(_decision(index + 1, receipt, recorded.model))
        stopped = _stop(course, done, recorded, index + 1, last=index + 1 == len(session.calls))
        if stopped is not None:
            # From here on the same policy without limits: what going on would have cost is what was saved.
            driver.policy = replace(policy, budget=BudgetRule(), loops=None)
            going_on = driver.drive(recorded, replace(call, id=f"{call.id}+"), encoding, now_s)
            sums.saved += _done(going_on).receipt.cost_nanos - receipt.cost_nanos
    cost, priced, reproduced, unknown = _as_recorded(session, measures)
    return SessionResult(
        session.id,
        session.place,
        session.task_id,
        session.success,
        len(session.calls),
        sums.made,
        cost,
        priced,
        sums.cost,
        sums.top,
        sums.top_made,
        sums.saved,
        sums.switches,
        sums.cold,
        sums.reveals,
        sums.changed,
        sum(call.usage is None for call in session.calls),
        timed,
        unknown,
        stopped,
        tuple(spent.values()),
        reproduced,
        tuple(noted),
        session.format,
    )


def _call(session: Session, recorded: Recorded, index: int) -> Call:
    origin = recorded.origin
    if not origin.session:
        origin = replace(origin, session=session.id)
    messages: tuple[Message, ...] = recorded.prompt
    return Call(
        f"{session.id}#{index + 1}", messages, recorded.tools, recorded.response_format, recorded.settings, origin
    )


def _time(recorded: Recorded, index: int) -> float:
    return recorded.at_s if recorded.at_s is not None else EPOCH_S + index * SPACING_S


def _today() -> date:
    return datetime.now(UTC).date()


def _timeless(policy: Policy) -> Policy:
    """Lift the limits in seconds: nothing is known of the time that passed."""
    budget = policy.budget
    return replace(
        policy,
        budget=replace(
            budget,
            session=replace(budget.session, seconds=None),
            agent=replace(budget.agent, seconds=None),
            tenant=replace(budget.tenant, seconds=None),
        ),
    )


def _done(course: Course) -> Done:
    if course.done is None:
        raise AssertionError("a course that returned has an end")
    return course.done


def _book(spent: dict[tuple[str, str, str], Spent], receipt: Receipt) -> None:
    """Charge every attempt to the model it was made on; a call counts where it ended."""
    charges = [(attempt.tier, attempt.model, 0, attempt.cost_nanos) for attempt in receipt.attempts]
    charges += [(receipt.tier, receipt.model, 1, 0)] if receipt.model else []
    for tier, model, calls, nanos in charges:
        key = (receipt.kind, tier, model)
        before = spent.get(key) or Spent(*key)
        spent[key] = replace(before, calls=before.calls + calls, nanos=before.nanos + nanos)


def _cold(model: Model, usage: Usage, prefix_tokens: int) -> int:
    """What a move cost because the conversation so far was not warm on the new model."""
    if not model.cache_ttl_s:
        return 0
    warm = max(min(prefix_tokens, usage.input_tokens), usage.cached_tokens)
    written = min(usage.cache_write_tokens, usage.input_tokens - warm)
    stayed = replace(usage, cached_tokens=warm, cache_write_tokens=written)
    return max(cost_nanos(model, usage) - cost_nanos(model, stayed), 0)


def _stop(course: Course, done: Done, recorded: Recorded, step: int, *, last: bool) -> Stopped | None:
    """Tell whether the policy ended the session here. Telling a model to answer that was about to is no stop."""
    receipt = done.receipt
    if done.refused:
        return Stopped(_WHY_STOPPED.get(done.refused, done.refused), step, done.why)
    if done.failure is not None:
        return Stopped("failure", step, done.failure.message)
    local = done.reply is not None and done.reply.model == NOTICE_MODEL
    if not course.concluded and not local:
        return None
    if last and not recorded.reply.tool_calls and not local:
        return None
    by = "loop" if receipt.loop == "conclude" and not local else "budget"
    return Stopped(by, step, _why(receipt, by))


def _why(receipt: Receipt, by: str) -> str:
    sign = ": conclude" if by == "loop" else "limit of"
    found = next((reason for reason in receipt.reasons if sign in reason), "")
    return found.removesuffix(": conclude") or (receipt.reasons[-1] if receipt.reasons else by)


def _decision(step: int, receipt: Receipt, recorded: str) -> Decision:
    return Decision(
        step,
        receipt.kind,
        receipt.kind_by,
        receipt.tier,
        receipt.model,
        receipt.refused,
        receipt.cost_nanos,
        recorded,
    )


def _as_recorded(session: Session, measures: Measures) -> tuple[int | None, bool, Reproduced | None, str]:
    """What the recording cost, whether the catalogue had to say it, the check of the cache, and a model not known."""
    costs = [call.cost_nanos for call in session.calls]
    told = sum(cost or 0 for cost in costs) if all(cost is not None for cost in costs) else session.cost_nanos
    cache = PromptCache(crowded=True)
    simulated = compared = known_cost = 0
    unknown = ""
    checked = 0
    for index, call in enumerate(session.calls):
        model = model_named(call.model, day_of(call.at_s, _today()))
        if model is None:
            unknown = call.model or "(no model named)"
            continue
        asked = measures.prompt_tokens(call, model.encoding, model.encoding)
        said = measures.answer_tokens(call, model.encoding, model.encoding)
        if call.usage is not None and (call.usage.cached_tokens or call.usage.cache_write_tokens):
            used = call.usage
        else:
            used = cache.usage(model, call, asked, said, _time(call, index))
        nanos = cost_nanos(model, used)
        simulated += nanos
        if call.cost_nanos is not None and call.usage is not None and call.receipt is None:
            checked += 1
            compared += nanos
            known_cost += call.cost_nanos
    reproduced = Reproduced(session.calls[0].model, checked, known_cost, compared) if checked else None
    if told is not None:
        return told, False, reproduced, unknown
    if unknown or any(call.usage is None for call in session.calls):
        return None, False, reproduced, unknown  # tokens we had to estimate are no record of a cost
    return simulated, True, reproduced, unknown
