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

    outcome = send_batch(send, batch)
    assert requests.count(1) > 8, "the ones rejected in the bad time were asked about again"
    assert sorted(outcome.accepted, key=lambda line: line.span.start) == batch
    assert not outcome.refused
    assert outcome.trouble is None


def test_poison_is_rejected_twice_beside_lines_that_are_taken():
    batch = lines(9)
    poison = batch[4]
    asked = []

    def send(part):
        asked.append(part)
        return NO if poison in part else BatchAccepted()

    outcome = send_batch(send, batch)
    assert [line for line, _ in outcome.refused] == [poison]
    assert asked.count([poison]) == 2
    assert len(outcome.accepted) == 8


def test_trouble_in_the_middle_leaves_every_unanswered_line_for_later():
    batch = lines(8)
    for trouble in (Unavailable("away"), Misconfigured("token")):
        for calls_before_it in range(1, 15):
            left = [calls_before_it]

            def send(part, left=left, trouble=trouble):
                left[0] -= 1
                return (
                    trouble if left[0] < 0 else NO if batch[4] in part else BatchAccepted(deferred=frozenset({0}))
                )

            outcome = send_batch(send, batch)
            refused = [line for line, _ in outcome.refused]
            assert sorted(outcome.accepted + outcome.deferred + refused, key=lambda line: line.span.start) == batch
            assert outcome.trouble in (trouble, None)
            assert set(refused) <= {batch[4]}


def test_each_verdict_finds_its_line():
    batch = lines(3)
    answer = BatchAccepted({0: LineRejection("invalid", "no")}, frozenset({1}))
    outcome = send_batch(lambda part: answer, batch)
    assert (outcome.refused, outcome.deferred, outcome.accepted) == (
        [(batch[0], answer.refused[0])],
        [batch[1]],
        [batch[2]],
    )
