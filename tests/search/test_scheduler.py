"""Slots, prefetching, stop requests and failures of everything around the search."""

from __future__ import annotations

import itertools
import signal
import threading

import pytest

from pod_worker.core.execution import ExecutionEnd, ExecutionResult
from pod_worker.core.failure import CancelRequested, DrainRequested, FailureCode, RunError
from pod_worker.core.research.completion import ChatCompletion
from pod_worker.search.pool import JobKind, ThreadPool
from pod_worker.search.tree.journal import read_state
from pod_worker.search.tree.node import NodeOutcome, Operation, derive_seed
from tests.search.fakes import FakeModel, FakeSandbox, Stop, VirtualPool, make_search, random_program, tree_of

STAGES = ("Stage_1", "Stage_2", "Stage_3", "Stage_4")


class WatchedPool(VirtualPool):
    """Also records how many jobs of each kind are in flight at once."""

    def __init__(self, seconds):
        super().__init__(seconds)
        self.flying = dict.fromkeys(JobKind, 0)
        self.most = dict.fromkeys(JobKind, 0)

    def submit(self, job):
        self.flying[job.kind] += 1
        self.most[job.kind] = max(self.most[job.kind], self.flying[job.kind])
        super().submit(job)

    def wait(self, timeout_seconds):
        result = super().wait(timeout_seconds)
        self.flying[result.job.kind] -= 1
        return result


def mixed(job):
    """Executions of 1 s and 10 s; a model that thinks for 1 s."""
    if job.kind is not JobKind.EXECUTE:
        return 1.0
    return 10.0 if derive_seed(job.node_id) % 2 else 1.0


def barrier_seconds(lengths, slots, latency):
    """The control: a batch waits for its slowest execution, then for the model."""
    batches = [lengths[start : start + slots] for start in range(0, len(lengths), slots)]
    return sum(latency + max(batch) for batch in batches)


def test_slots_are_busy_with_short_and_long_programs(tmp_path):
    pools = []

    def new_pool():
        pools.append(WatchedPool(mixed))
        return pools[-1]

    search = make_search(tmp_path, set={"slots": 4}, new_pool=new_pool)
    search.run_stage("Stage_1")
    search.run_stage("Stage_4", 120)
    pool = pools[-1]
    utilisation = pool.busy[JobKind.EXECUTE] / (4 * pool.now)
    assert utilisation >= 0.9
    lengths = [mixed(job) for job in pool.executed]
    control = sum(lengths) / (4 * barrier_seconds(lengths, 4, 2.0))
    assert utilisation > 1.3 * control
    assert pool.most[JobKind.EXECUTE] == 4
    assert 4 <= pool.most[JobKind.PROPOSE] <= 5
    assert pool.most[JobKind.ANALYSE] <= 5


def test_the_model_writes_the_next_program_while_the_only_slot_executes(tmp_path):
    pools = []

    def new_pool():
        pools.append(WatchedPool(lambda job: 10.0 if job.kind is JobKind.EXECUTE else 2.0))
        return pools[-1]

    search = make_search(tmp_path, new_pool=new_pool, client=FakeModel(always_scored))
    search.run_stage("Stage_1")
    search.run_stage("Stage_4", 50)
    pool = pools[-1]
    assert pool.busy[JobKind.EXECUTE] / pool.now >= 0.9
    assert pool.most[JobKind.EXECUTE] == pool.most[JobKind.PROPOSE] == 1


def always_scored(request):
    number = derive_seed(request.facts["seed"])
    return {"score": 0.5, "noise": 0.01, "number": number}


# Stop requests


def set_after(event, stop):
    event.wait(60)
    stop.event.set()


@pytest.mark.parametrize("error", [CancelRequested, DrainRequested])
def test_a_stop_request_ends_a_search_whose_model_and_programs_hang(tmp_path, error):
    released, reached = threading.Event(), threading.Event()

    class Hanging(FakeModel):
        def complete(self, request):
            if request.stage == "Stage_2" and request.operation != "node.analyse" and len(self.requests) > 9:
                reached.set()
                released.wait(60)
            return super().complete(request)

    class Asked(Stop):
        def check(self):
            if self.is_set():
                raise error

    stop = Asked()
    search = make_search(tmp_path, new_pool=ThreadPool, client=Hanging(always_scored), stop=stop)
    search.run_stage("Stage_1")
    thread = threading.Thread(target=set_after, args=(reached, stop))
    thread.start()
    with pytest.raises(error):
        search.run_stage("Stage_2")
    assert not released.is_set(), "the search did not wait for the model"
    released.set()
    thread.join()


def test_a_program_that_a_stop_request_ended_is_executed_again(tmp_path):
    stop = Stop()
    sandbox = FakeSandbox(
        before=lambda request: stop.event.set() if request.folder.name == "Stage_1-002" else None
    )
    model = FakeModel(lambda request: random_program(request) | {"error": "ValueError"})
    with pytest.raises(CancelRequested):
        make_search(tmp_path, stop=stop, runner=sandbox, client=model).run_stage("Stage_1", 3)
    state = read_state(tmp_path)
    assert state.nodes["Stage_1-002"].is_ready
    assert state.nodes["Stage_1-002"].starts == 0
    asked = len([request for request in model.requests if request.node_id == "Stage_1-002"])
    with pytest.raises(RunError, match="all 3 programs"):
        make_search(tmp_path, client=model).run_stage("Stage_1", 3)
    assert asked == len([r for r in model.requests if r.node_id == "Stage_1-002" and r.operation == "node.draft"])


def test_what_ends_while_the_search_stops_is_kept(tmp_path):
    """A program that finishes within the time of a stop is recorded, not executed again."""
    ending = threading.Event()

    class Noticed(Stop):
        def check(self):
            if self.is_set():
                ending.set()
            super().check()

    stop = Noticed()

    class Slow(FakeSandbox):
        def execute(self, request, stop_signal):
            stop.event.set()
            ending.wait(60)
            return super().execute(request, Stop())

    with pytest.raises(CancelRequested):
        make_search(tmp_path, stop=stop, runner=Slow(), new_pool=ThreadPool).run_stage("Stage_1")
    assert [node.outcome is not None for node in read_state(tmp_path).nodes.values()].count(True) == 1


def test_a_client_and_a_sandbox_that_raise_on_a_stop_request_end_the_search_cleanly(tmp_path):
    """The client's wait and the sandbox's wait end with the interruption itself."""
    stop = Stop()
    both = threading.Barrier(2, timeout=60)

    class Interrupted(FakeModel):
        def complete(self, request):
            if request.node_id == "Stage_1-002":
                both.wait()
                stop.event.set()
                raise CancelRequested
            return super().complete(request)

    class Raising(FakeSandbox):
        def execute(self, request, stop_signal):
            both.wait()
            stop.event.wait(60)
            raise CancelRequested

    search = make_search(tmp_path, stop=stop, client=Interrupted(), runner=Raising(), new_pool=ThreadPool)
    with pytest.raises(CancelRequested):
        search.run_stage("Stage_1")
    first, second = read_state(tmp_path).nodes.values()
    assert (first.is_ready, first.starts) == (True, 0)
    assert (second.is_proposing, second.declined) == (True, "")


@pytest.mark.parametrize("count", range(1, 9))
def test_a_process_that_dies_after_a_payment_asks_the_same_question_again(tmp_path, count):
    """The client has the answer, the journal does not; other nodes went on in between."""
    (tmp_path / "cache").mkdir()
    asked = []

    class Paying(FakeModel):
        def _answer(self, request):
            asked.append((request.node_id, request.operation, request.sample))
            return super()._answer(request)

    class Dying(VirtualPool):
        def wait(self, timeout_seconds):
            result = super().wait(timeout_seconds)
            if result.job.kind is JobKind.PROPOSE and next(left) == count:
                raise KeyboardInterrupt
            return result

    left = itertools.count(1)
    options = {"client": Paying(folder=tmp_path / "cache"), "set": {"slots": 2}}
    with pytest.raises(KeyboardInterrupt):
        run_stages(make_search(tmp_path / "search", new_pool=lambda: Dying(lambda job: 1.0), **options))
    run_stages(make_search(tmp_path / "search", **options))
    assert len(set(asked)) == len(asked)


def run_stages(search):
    for stage in STAGES:
        search.run_stage(stage, 5)


def test_a_search_that_stops_asks_nothing_more(tmp_path):
    """A duplicate that arrives after the stop request is asked for again by the resume, not now."""
    stop = Stop()
    same = {"score": 0.5, "noise": 0.01}
    executing, answered = threading.Event(), threading.Event()

    class Late(FakeModel):
        def complete(self, request):
            if request.node_id == "Stage_1-002":
                executing.wait(60)
                stop.event.set()
            return super().complete(request)

    class Slow(FakeSandbox):
        def execute(self, request, stop_signal):
            executing.set()
            answered.wait(60)
            return super().execute(request, Stop())

    class Noting(ThreadPool):
        def wait(self, timeout_seconds):
            result = super().wait(timeout_seconds)
            if result and result.job.node_id == "Stage_1-002":
                answered.set()
            return result

    model = Late(lambda request: same)
    with pytest.raises(CancelRequested):
        make_search(tmp_path, stop=stop, client=model, runner=Slow(), new_pool=Noting).run_stage("Stage_1")
    asked = [request for request in model.requests if request.operation == "node.draft"]
    assert [request.node_id for request in asked] == ["Stage_1-001", "Stage_1-002"]
    assert read_state(tmp_path).nodes["Stage_1-002"].is_proposing


# Failures of the model

FATAL = [FailureCode.LLM_AUTH, FailureCode.INVALID_INPUT, FailureCode.BUDGET_EXCEEDED]
PASSING = [FailureCode.LLM_RATE_LIMIT, FailureCode.LLM_ERROR, FailureCode.NETWORK, FailureCode.STORAGE]
OPERATIONS = ["node.draft", "node.debug", "node.improve", "node.tune", "node.ablate", "node.analyse"]


def run_four(folder, model, **options):
    search = make_search(folder, client=model, set={"debug_probability": 0.9} | options)
    return [search.run_stage(stage, 5) for stage in STAGES]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("healthy")
    model = FakeModel()
    run_four(folder, model)
    assert set(model.calls) == set(OPERATIONS)
    return folder


def failing(operation, error, times):
    model, left = FakeModel(), itertools.count(times, -1)
    model.fail = lambda request: error if request.operation == operation and next(left) > 0 else None
    return model


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("code", FATAL)
def test_a_final_failure_of_a_model_call_ends_the_search_at_once_and_a_resume_loses_nothing(
    tmp_path, healthy, operation, code
):
    model = failing(operation, RunError(code, "refused"), 10**6)
    with pytest.raises(RunError, match="refused") as caught:
        run_four(tmp_path, model)
    assert caught.value.code is code
    assert model.calls[operation] <= 2, "nothing is gained by asking again"
    run_four(tmp_path, FakeModel())
    assert tree_of(read_state(tmp_path)) == tree_of(read_state(healthy))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("code", PASSING)
def test_one_failed_call_never_ends_the_search(tmp_path, operation, code):
    summaries = run_four(tmp_path, failing(operation, RunError(code, "busy"), 1))
    assert [summary.stage for summary in summaries] == list(STAGES)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("code", PASSING)
def test_calls_that_fail_in_a_row_end_the_search_with_their_code(tmp_path, operation, code):
    model = failing(operation, RunError(code, "busy"), 10**6)
    model.fail = lambda request: RunError(code, "busy") if model.calls[operation] else None
    with pytest.raises(
        RunError, match=r"^3 model calls in a row failed; the last one: the model did not answer: busy$"
    ) as caught:
        run_four(tmp_path, model)
    assert caught.value.code is code
    assert sum(model.calls.values()) < 60


def test_a_resume_does_not_count_the_failures_that_ended_the_attempt_before(tmp_path):
    model = FakeModel()
    model.fail = lambda request: RunError(FailureCode.NETWORK, "down")
    with pytest.raises(RunError, match="down"):
        make_search(tmp_path, client=model).run_stage("Stage_1", 4)
    assert len(read_state(tmp_path).written("Stage_1")) == 3
    summary = make_search(tmp_path, client=FakeModel(always_scored)).run_stage("Stage_1", 1)
    assert (summary.reason, summary.scored) == ("first score", 4)


@pytest.mark.parametrize("error", [ValueError("a defect"), KeyError("x"), OSError(28, "No space left on device")])
def test_an_unexpected_error_of_the_client_counts_as_a_model_failure(tmp_path, error):
    model = FakeModel()
    model.fail = lambda request: error
    with pytest.raises(RunError, match="3 model calls in a row") as caught:
        make_search(tmp_path, client=model).run_stage("Stage_1")
    assert caught.value.code in (FailureCode.INTERNAL, FailureCode.DISK_FULL)


@pytest.mark.parametrize(
    "answer", [{"code": ""}, {"code": "  \n"}, {"code": None}, {"code": 7}, {"code": "x" * 50_000}]
)
def test_an_answer_without_a_usable_program_is_asked_for_once_more_and_declined(tmp_path, answer):
    model = FakeModel(lambda request: answer)
    with pytest.raises(RunError, match="no program was executed") as caught:
        make_search(tmp_path, client=model).run_stage("Stage_1", 3)
    assert caught.value.code is FailureCode.MAX_ITERATIONS
    assert len(model.requests) == 6
    assert "rejected" in model.requests[1].facts


def test_a_value_that_is_no_object_is_a_failure_of_the_model(tmp_path):
    model = FakeModel()
    model.complete = lambda request: ChatCompletion(text="[]", value=["a list"], model="fake")  # type: ignore[method-assign]
    with pytest.raises(RunError, match="no JSON object") as caught:
        make_search(tmp_path, client=model).run_stage("Stage_1")
    assert caught.value.code is FailureCode.LLM_ERROR


# Duplicates


def test_a_repeated_proposal_is_asked_for_once_more_and_never_executed_twice(tmp_path):
    """A model that answers every third request with the same program."""
    model = FakeModel()
    counter = itertools.count()
    model.reply = lambda request: {"score": 0.5, "noise": 0.01} if next(counter) % 3 else always_scored(request)
    sandbox = FakeSandbox()
    search = make_search(tmp_path, client=model, runner=sandbox)
    search.run_stage("Stage_1")
    search.run_stage("Stage_4", 12)
    state = read_state(tmp_path)
    executed = [node.code for node in state.nodes.values() if node.outcome and not node.is_replica]
    assert len(set(executed)) == len(executed)
    declined = [node for node in state.nodes.values() if node.declined]
    assert declined
    assert all(node.calls == 2 and "does the same as" in node.declined for node in declined)
    again = [request for request in model.requests if "rejected" in request.facts]
    assert all(request.sample % 2 == 1 and "does the same as" in request.messages[-1].text for request in again)


def test_drafts_that_start_from_the_same_facts_are_different_questions(tmp_path):
    """A cache that knows a question by its text would give them one answer, a duplicate."""
    model = FakeModel()
    make_search(tmp_path, client=model, set={"slots": 3}).run_stage("Stage_1")
    drafts = [request for request in model.requests if request.operation == "node.draft"]
    assert len({request.messages for request in drafts}) == len({r.sample for r in drafts}) == len(drafts) >= 3


def test_two_slots_that_get_one_program_execute_it_once(tmp_path):
    model = FakeModel(lambda request: {"score": 0.5, "noise": 0.01})
    sandbox = FakeSandbox()
    search = make_search(tmp_path, client=model, runner=sandbox, set={"slots": 3})
    search.run_stage("Stage_1", 6)
    assert len(sandbox.executions) == 1 + 3, "one program and its replicas"


# Failures of the sandbox and the machine


def test_a_sandbox_that_cannot_work_ends_the_search(tmp_path):
    def broken(request):
        raise RunError(FailureCode.ENVIRONMENT, "no namespaces here")

    with pytest.raises(RunError, match="no namespaces"):
        make_search(tmp_path, runner=FakeSandbox(before=broken)).run_stage("Stage_1")
    assert make_search(tmp_path).run_stage("Stage_1").scored, "another pod goes on"


def test_a_full_disk_ends_the_search_with_its_code(tmp_path):
    def full(request):
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError) as caught:
        make_search(tmp_path, runner=FakeSandbox(before=full)).run_stage("Stage_1")
    assert caught.value.code is FailureCode.DISK_FULL


def test_replicas_that_drew_equal_random_numbers_are_an_error_of_the_sandbox(tmp_path):
    model = FakeModel(lambda request: {"score": 0.5, "noise": 0.1, "same_proof": True})
    with pytest.raises(RunError, match="drew the same random numbers") as caught:
        make_search(tmp_path, client=model).run_stage("Stage_1")
    assert caught.value.code is FailureCode.ENVIRONMENT


def test_a_program_that_takes_the_worker_down_is_given_up(tmp_path):
    """Each attempt dies while it executes the first program, as a machine without memory does."""

    class MachineGoneError(BaseException):
        pass

    def die(request):
        if request.folder.name == "Stage_1-001":
            raise MachineGoneError

    model = FakeModel(lambda request: always_scored(request))
    for _ in range(3):
        pool = DyingPool(MachineGoneError)
        search = make_search(
            tmp_path, client=model, runner=FakeSandbox(before=die), new_pool=lambda pool=pool: pool
        )
        with pytest.raises(MachineGoneError):
            search.run_stage("Stage_1")
    make_search(tmp_path, client=model).run_stage("Stage_1")
    first = read_state(tmp_path).nodes["Stage_1-001"]
    assert (first.error_kind, first.starts) == ("worker_lost", 3)


class DyingPool(VirtualPool):
    def __init__(self, kind):
        super().__init__(lambda job: 1.0)
        self._kind = kind

    def wait(self, timeout_seconds):
        result = super().wait(timeout_seconds)
        if isinstance(result.error, self._kind):
            raise result.error
        return result


def test_a_program_that_is_stopped_without_a_request_does_not_run_for_ever(tmp_path):
    class Stopping(FakeSandbox):
        def execute(self, request, stop):
            self.executions.append(request)
            return ExecutionResult(end=ExecutionEnd.STOPPED)

    sandbox = Stopping()
    with pytest.raises(RunError, match="worker_lost"):
        make_search(tmp_path, runner=sandbox).run_stage("Stage_1", 2)
    assert len(sandbox.executions) == 2 * 3


@pytest.mark.parametrize(("kills", "outcome"), [(2, NodeOutcome.SCORED), (3, NodeOutcome.BUGGY)])
def test_a_program_that_something_killed_is_executed_again_and_a_limit_ends_that(tmp_path, kills, outcome):
    """The kernel kills programs of the whole machine for memory; a program may also kill itself each time."""

    class Killing(FakeSandbox):
        def execute(self, request, stop):
            result = super().execute(request, stop)
            count = sum(each.folder == request.folder for each in self.executions)
            if request.folder.name != "Stage_1-001" or count > kills:
                return result
            return ExecutionResult(end=ExecutionEnd.SIGNALED, signal=signal.SIGKILL)

    model = FakeModel(lambda request: always_scored(request))
    sandbox = Killing()
    make_search(tmp_path, client=model, runner=sandbox).run_stage("Stage_1", 3)
    node = read_state(tmp_path).nodes["Stage_1-001"]
    assert (node.outcome, node.starts) == (outcome, 3)
    assert node.error_kind == ("" if outcome is NodeOutcome.SCORED else "SIGKILL")
    assert sum(each.folder.name == node.id for each in sandbox.executions) == 3


# Executions


def test_a_program_gets_its_folder_seed_and_gpu(tmp_path):
    sandbox = FakeSandbox()
    search = make_search(tmp_path, runner=sandbox, set={"gpus": ((0, 1),)})
    search.run_stage("Stage_1")
    first, node = sandbox.executions[0], read_state(tmp_path).nodes["Stage_1-001"]
    assert first.folder == tmp_path / node.folder
    assert first.seed == int(first.environment["RUN_SEED"]) == node.seed
    assert first.environment.keys() == {"TASK_DIR", "OUTPUT_DIR", "RUN_SEED"}
    assert (first.gpus, first.hosts, first.argv) == ((0, 1), (), ("solution.py",))
    assert first.readable == (search.task.folder,)


def test_programs_reach_the_hosts_of_the_run_and_the_model_knows_them(tmp_path):
    model, sandbox = FakeModel(), FakeSandbox()
    make_search(tmp_path, client=model, runner=sandbox, set={"hosts": ("huggingface.co",)}).run_stage("Stage_1")
    assert all(each.hosts == ("huggingface.co",) and not each.unix_sockets for each in sandbox.executions)
    assert "- huggingface.co" in model.requests[0].messages[-1].text


def test_a_file_of_an_earlier_execution_is_not_scored(tmp_path):
    """The program ends well and writes nothing, in a folder that an earlier execution filled."""
    stale = tmp_path / "nodes" / "Stage_1-001" / "out" / "scores.json"
    stale.parent.mkdir(parents=True)
    stale.write_text('{"score": 9, "noise": 0}')

    class Silent(FakeSandbox):
        def execute(self, request, stop):
            return ExecutionResult(end=ExecutionEnd.EXITED, exit_code=0)

    with pytest.raises(RunError, match="gave no score: missing"):
        make_search(tmp_path, runner=Silent()).run_stage("Stage_1", 1)


def test_a_link_that_a_program_left_is_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.write_text("as it was")

    def leave_links(request):
        for name in ("output.txt", "result.json"):
            (request.folder / name).symlink_to(target)

    make_search(tmp_path / "search", runner=FakeSandbox(before=leave_links)).run_stage("Stage_1")
    assert target.read_text() == "as it was"
    assert "done" in (tmp_path / "search" / "nodes" / "Stage_1-001" / "output.txt").read_text()


def test_a_folder_in_the_way_of_a_copy_does_no_harm(tmp_path):
    sandbox = FakeSandbox(before=lambda request: (request.folder / "output.txt").mkdir())
    assert make_search(tmp_path, runner=sandbox).run_stage("Stage_1").scored


def test_every_operation_is_used_where_its_stage_says(tmp_path, healthy):
    kinds = {stage: {node.operation for node in read_state(healthy).written(stage)} for stage in STAGES}
    own = dict(zip(STAGES, (Operation.DRAFT, Operation.TUNE, Operation.IMPROVE, Operation.ABLATE), strict=True))
    for stage, found in kinds.items():
        assert own[stage] in found
        assert found <= {own[stage], Operation.DEBUG}
