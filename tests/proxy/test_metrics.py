"""The page of numbers: what Prometheus reads, and the workers of a port as one."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from waywiser.core.calls import Usage
from waywiser.core.receipt import Attempt
from waywiser.proxy.fleet import Fleet
from waywiser.proxy.metrics import Metrics
from waywiser.testing.ledger import a_receipt


def numbers(page: bytes) -> dict[str, float]:
    rows = (line.rpartition(" ") for line in page.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in rows}


def seen(requests: int, *, in_flight: int = 0) -> Metrics:
    metrics = Metrics()
    metrics.in_flight = metrics.streams = in_flight
    for _ in range(requests):
        metrics.request("chat", 200, 0.02)
    return metrics


def gone() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_page_is_what_prometheus_reads() -> None:
    metrics = seen(3, in_flight=1)
    metrics.first_chunk("chat", 200.0)
    metrics.refused('odd"code\\')
    attempt = Attempt("m/small", "economy", 0.0, 0.1, Usage(), 0, failure="timeout")
    told = {"kind": "synthesis", "tier": "economy", "model": "m/small", "cost_nanos": 2_500, "usage": Usage(7, 3)}
    metrics.receipt(replace(a_receipt("r1"), attempts=(attempt,), **told))  # type: ignore[arg-type]
    page = metrics.text()
    assert page.endswith(b"\n")
    found = numbers(page)
    assert found["waywiser_in_flight"] == found["waywiser_open_streams"] == 1
    assert found['waywiser_requests_total{surface="chat",status="200"}'] == 3
    assert found['waywiser_errors_total{code="odd\\"code\\\\"}'] == 1
    assert found['waywiser_steps_total{kind="synthesis",tier="economy",model="m/small"}'] == 1
    assert found['waywiser_attempts_total{model="m/small",outcome="timeout"}'] == 1
    assert found['waywiser_tokens_total{direction="input",tier="economy"}'] == 7
    assert found['waywiser_cost_usd_total{tier="economy"}'] == pytest.approx(2.5e-6)
    assert found['waywiser_request_seconds_bucket{surface="chat",le="0.01"}'] == 0
    assert found['waywiser_request_seconds_bucket{surface="chat",le="0.025"}'] == 3
    assert found['waywiser_request_seconds_sum{surface="chat"}'] == pytest.approx(0.06)
    assert found['waywiser_first_chunk_seconds_bucket{surface="chat",le="120.0"}'] == 0
    assert found['waywiser_first_chunk_seconds_count{surface="chat"}'] == 1
    families = re.findall(r"^# TYPE (\S+) (\S+)$", page.decode(), re.MULTILINE)
    assert len(families) == len(set(families)) == 10


def test_workers_are_added_up_and_no_counter_goes_back(tmp_path: Path) -> None:
    requests = 'waywiser_requests_total{surface="chat",status="200"}'
    first, second = seen(3, in_flight=2), seen(5, in_flight=1)
    one, other = Fleet(first, str(tmp_path), worker=1), Fleet(second, str(tmp_path))
    assert numbers(one.text())[requests] == 3
    assert numbers(other.text())[requests] == 8
    shown = 8.0
    for number in range(6):
        (first, second)[number % 2].request("chat", 200, 0.3)
        now = numbers((one, other)[number // 2 % 2].text())
        assert now[requests] >= shown
        shown = now[requests]
    other.write()
    found = numbers(one.text())
    assert found[requests] == found['waywiser_request_seconds_count{surface="chat"}'] == 14
    assert found["waywiser_in_flight"] == found["waywiser_open_streams"] == 3
    assert not list(tmp_path.glob("*.new"))


def test_a_worker_that_died_keeps_its_counts_and_has_nothing_in_flight(tmp_path: Path) -> None:
    Fleet(seen(4, in_flight=7), str(tmp_path), worker=gone()).write()
    found = numbers(Fleet(seen(1), str(tmp_path)).text())
    assert found['waywiser_requests_total{surface="chat",status="200"}'] == 5
    assert found["waywiser_in_flight"] == 0


def test_a_folder_that_is_lost_costs_the_numbers_of_the_others_alone(tmp_path: Path) -> None:
    fleet = Fleet(seen(2), str(tmp_path / "gone"))
    assert numbers(fleet.text())['waywiser_requests_total{surface="chat",status="200"}'] == 2


async def test_numbers_are_written_when_the_worker_ends(tmp_path: Path) -> None:
    metrics = seen(1)
    task = asyncio.create_task(Fleet(metrics, str(tmp_path), worker=gone()).keep_writing())
    await asyncio.sleep(0)
    metrics.request("chat", 200, 0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    found = numbers(Fleet(Metrics(), str(tmp_path)).text())
    assert found['waywiser_requests_total{surface="chat",status="200"}'] == 2
    await Fleet(metrics).keep_writing()  # alone there is nobody to write for
