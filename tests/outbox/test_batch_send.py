from __future__ import annotations

from pod_worker.outbox.backlog import SpooledLine
from pod_worker.outbox.batch_send import SUSPECT_LINES, send_batch
from pod_worker.outbox.cursor import Span
from pod_worker.outbox.ingest_client import BatchAccepted, BatchRejected, LineRejection, Misconfigured, Unavailable

NO = BatchRejected(LineRejection("400", "no"))


def lines(count: int) -> list[SpooledLine]:
    return [SpooledLine(Span("facts", place, place + 1), b"%d\n" % place) for place in range(count)]


def test_a_large_batch_that_is_rejected_is_not_searched():
    assert send_batch(lambda part: NO, lines(SUSPECT_LINES + 1)) is None


def test_a_server_that_recovers_during_the_search_costs_nothing():
    batch, requests = lines(8), []

    def send(part):
        requests.append(len(part))
        return NO if len(requests) < 11 else BatchAccepted()

    result = send_batch(send, batch)
    assert requests.count(1) > 8, "the ones rejected in the bad time were asked about again"
    assert sorted(result.accepted, key=lambda line: line.span.start) == batch
    assert not result.rejected
    assert result.failure is None


def test_poison_is_rejected_twice_beside_lines_that_are_taken():
    batch = lines(9)
    poison = batch[4]
    asked = []

    def send(part):
        asked.append(part)
        return NO if poison in part else BatchAccepted()

    result = send_batch(send, batch)
    assert [line for line, _ in result.rejected] == [poison]
    assert asked.count([poison]) == 2
    assert len(result.accepted) == 8


def test_a_failure_in_the_middle_leaves_every_unanswered_line_for_later():
    batch = lines(8)
    for failure in (Unavailable("away"), Misconfigured("token")):
        for calls_before_it in range(1, 15):
            left = [calls_before_it]

            def send(part, left=left, failure=failure):
                left[0] -= 1
                return (
                    failure if left[0] < 0 else NO if batch[4] in part else BatchAccepted(deferred=frozenset({0}))
                )

            result = send_batch(send, batch)
            rejected = [line for line, _ in result.rejected]
            assert sorted(result.accepted + result.deferred + rejected, key=lambda line: line.span.start) == batch
            assert result.failure in (failure, None)
            assert set(rejected) <= {batch[4]}


def test_each_verdict_finds_its_line():
    batch = lines(3)
    answer = BatchAccepted({0: LineRejection("invalid", "no")}, frozenset({1}))
    result = send_batch(lambda part: answer, batch)
    assert (result.rejected, result.deferred, result.accepted) == (
        [(batch[0], answer.rejected[0])],
        [batch[1]],
        [batch[2]],
    )
