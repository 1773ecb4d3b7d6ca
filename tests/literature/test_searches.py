"""Every adapter of the literature search answers alike; the HTTP ones survive what public indexes do."""

from __future__ import annotations

import threading

import pytest

from pod_worker.core.failure import CancelRequested, FailureCode, RunError
from pod_worker.core.research.literature import LiteratureSearch, is_same_work, read_work
from pod_worker.literature.choice import SOURCES, literature_search
from pod_worker.literature.http_index import QUERY_LIMIT, IndexLimits
from pod_worker.literature.openalex import OpenAlexSearch, restore_abstract
from pod_worker.literature.recorded import RecordedSearch
from pod_worker.literature.semantic_scholar import SemanticScholarSearch
from tests.literature.conftest import QUICK, Fault, IndexServer, Stop

HTTP: dict[str, type[OpenAlexSearch] | type[SemanticScholarSearch]] = {
    "openalex": OpenAlexSearch,
    "semantic_scholar": SemanticScholarSearch,
}


@pytest.fixture(params=["openalex", "semantic_scholar", "recorded"])
def search(request: pytest.FixtureRequest, server: IndexServer, stop: Stop) -> LiteratureSearch:
    if request.param == "recorded":
        return RecordedSearch()
    return HTTP[request.param](stop, base_url=server.url, limits=QUICK)


@pytest.fixture(params=["openalex", "semantic_scholar"])
def remote(request: pytest.FixtureRequest, server: IndexServer, stop: Stop) -> LiteratureSearch:
    return HTTP[request.param](stop, base_url=server.url, limits=QUICK)


def test_the_best_match_comes_first_and_is_complete(search: LiteratureSearch) -> None:
    work = search.search("When does label smoothing help?", 5)[0]
    assert work.title == "When Does Label Smoothing Help?"
    assert work.authors == ("Rafael Müller", "Simon Kornblith", "Geoffrey Hinton")
    assert (work.year, work.venue) == (2019, "Advances in Neural Information Processing Systems")
    assert work.url.startswith("https://")
    assert "calibration" in work.abstract
    assert all(work.id.partition(":"))


def test_two_searches_give_one_identity(search: LiteratureSearch) -> None:
    first, second = (search.search("dropout overfitting", 3)[0] for _ in range(2))
    assert is_same_work(first, second)


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_the_limit_holds(search: LiteratureSearch, limit: int) -> None:
    assert len(search.search("regularization of neural networks", limit)) == limit


@pytest.mark.parametrize("query", ["", "   ", "zyzzyva qwertyuiop"])
def test_without_a_match_the_answer_is_empty(search: LiteratureSearch, query: str) -> None:
    assert search.search(query, 5) == ()


def test_every_shipped_work_is_complete() -> None:
    works = RecordedSearch().search("learning networks classification regression data of evaluation", 100)
    assert len(works) > 10
    for work in works:
        assert all((work.year, work.venue, work.abstract)), work.id
        assert work.url.startswith("https://"), work.id
        assert read_work(work.to_json()) == work


def test_without_an_index_nothing_is_found_and_the_name_says_so(stop: Stop) -> None:
    search = literature_search("none", stop)
    assert (search.name, search.search("dropout", 5)) == ("unavailable", ())


def test_each_source_has_an_adapter_and_another_one_is_refused(stop: Stop) -> None:
    assert [literature_search(source, stop).name for source in SOURCES] == [*SOURCES[:-1], "unavailable"]
    with pytest.raises(RunError, match="openalex, semantic_scholar, recorded, none") as caught:
        literature_search("arxiv", stop)
    assert caught.value.code is FailureCode.INVALID_INPUT


def test_an_empty_folder_of_recorded_works_is_refused(tmp_path) -> None:
    with pytest.raises(RunError, match="no recorded works"):
        RecordedSearch(tmp_path)
    (tmp_path / "works.json").write_text('[{"title": "no id"}]')
    with pytest.raises(RunError, match="entry 0 is no work"):
        RecordedSearch(tmp_path)


def test_keys_and_addresses_are_sent(server: IndexServer, stop: Stop) -> None:
    SemanticScholarSearch(stop, api_key="k", base_url=server.url, limits=QUICK).search("dropout", 1)
    OpenAlexSearch(stop, mailto="a@b.example", base_url=server.url, limits=QUICK).search("drop,out: x", 1)
    (_, _, headers), (_, query, _) = server.requests
    assert headers["x-api-key"] == "k"
    assert query["mailto"] == "a@b.example"
    assert not {",", ":"} & set(query["search"])


def test_a_long_query_is_cut(remote: LiteratureSearch, server: IndexServer) -> None:
    remote.search("dropout\n" * 1000, 1)
    query = server.requests[0][1]
    text = query.get("query") or query["search"]
    assert len(text) <= QUERY_LIMIT
    assert "\n" not in text


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429, headers={"Retry-After": "0"}),
        Fault(status=429, headers={"Retry-After": "86400"}),  # waits the longest pause that the limits allow
        Fault(status=503),
        Fault(body=b'{"data": [', is_cut=True),
    ],
)
def test_a_passing_fault_is_retried(remote: LiteratureSearch, server: IndexServer, fault: Fault) -> None:
    server.faults = [fault, fault]
    assert remote.search("dropout", 1)[0].title.startswith("Dropout")
    assert len(server.requests) == 3


def test_retries_are_bounded(remote: LiteratureSearch, server: IndexServer) -> None:
    server.faults = [Fault(status=429)] * 10
    with pytest.raises(RunError, match="did not answer 3 requests") as caught:
        remote.search("dropout", 1)
    assert caught.value.code is FailureCode.NETWORK
    assert len(server.requests) == QUICK.attempts


@pytest.mark.parametrize("fault", [Fault(body=b"<html>"), Fault(status=400), Fault(status=403)])
def test_an_answer_that_no_retry_corrects_ends_the_search(
    remote: LiteratureSearch, server: IndexServer, fault: Fault
) -> None:
    server.faults = [fault]
    with pytest.raises(RunError) as caught:
        remote.search("dropout", 1)
    assert caught.value.code is FailureCode.NETWORK
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body", [b"[]", b"null", b'{"data": 3, "results": {}}', b'{"data": [3], "results": [null]}']
)
def test_json_of_another_shape_is_no_work(remote: LiteratureSearch, server: IndexServer, body: bytes) -> None:
    server.faults = [Fault(body=body)]
    assert remote.search("dropout", 1) == ()


def test_a_large_answer_is_refused(remote: LiteratureSearch, server: IndexServer) -> None:
    server.faults = [Fault(body=b" " * (5 * 2**20))]
    with pytest.raises(RunError, match="more than"):
        remote.search("dropout", 1)


def test_a_server_that_hangs_is_left(server: IndexServer, stop: Stop) -> None:
    released = threading.Event()
    server.faults = [Fault(hold=released)]
    limits = IndexLimits(interval_seconds=0, attempts=1, read_seconds=0.1)
    with pytest.raises(RunError, match="Timeout"):
        OpenAlexSearch(stop, base_url=server.url, limits=limits).search("dropout", 1)
    released.set()


def test_a_stop_ends_the_wait_for_a_retry(server: IndexServer, stop: Stop) -> None:
    server.faults = [Fault(status=429, headers={"Retry-After": "60"})]
    limits = IndexLimits(interval_seconds=0, longest_wait_seconds=60)
    search = OpenAlexSearch(stop, base_url=server.url, limits=limits)
    raised: list[BaseException] = []

    def work() -> None:
        try:
            search.search("dropout", 1)
        except CancelRequested as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not server.requests:
        thread.join(0.01)
    stop.is_requested = True
    thread.join(30)
    assert raised


def test_requests_keep_their_distance(server: IndexServer, stop: Stop) -> None:
    search = OpenAlexSearch(stop, base_url=server.url, limits=IndexLimits(interval_seconds=0.1))
    clock = search._index._clock
    begin = clock()
    for _ in range(3):
        search.search("dropout", 1)
    assert clock() - begin >= 0.2


def test_an_abstract_is_restored_from_its_index() -> None:
    assert restore_abstract({"b": [1], "a": [0, 2], "huge": [10**9], "bad": ["x"]}) == "a b a"
    assert restore_abstract(None) == ""
