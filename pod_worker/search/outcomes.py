"""Records for what came back from the model and from an execution."""

from __future__ import annotations

import signal

from pod_worker.core.failure import classify, truncate
from pod_worker.search.duplicates import shape
from pod_worker.search.operators import CODE_BYTES, Proposal
from pod_worker.search.tree.node import NodeOutcome, SearchNode
from pod_worker.search.tree.records import NodeFinished, NodeProposed
from pod_worker.search.tree.state import SearchState

_REASON_LIMIT = 500


def rejection(state: SearchState, proposal: Proposal) -> str | None:
    """Why a program is not worth an execution."""
    if not proposal.code.strip():
        return "The answer has no code."
    if len(proposal.code.encode()) > CODE_BYTES:
        return f"The code is longer than {CODE_BYTES} bytes."
    mark = shape(proposal.code)
    for other in state.nodes.values():
        if other.shape == mark and not other.is_replica:
            return f"The program does the same as that of node {other.id}; a different seed is no change."
    return None


def proposed(node: SearchNode, proposal: Proposal, code: str, calls: int) -> NodeProposed:
    """`code` is the SHA-256 of the stored program."""
    return NodeProposed(
        node_id=node.id,
        code=code,
        shape=shape(proposal.code),
        plan=proposal.plan,
        change=proposal.change,
        calls=calls,
        is_scripted=proposal.is_scripted,
    )


def repeated(node: SearchNode, original: SearchNode) -> NodeProposed:
    """The program of a replica: its original's, without a call."""
    return NodeProposed(
        node_id=node.id,
        code=original.code or "",
        shape=original.shape,
        change=original.change,
        is_scripted=original.is_scripted,
    )


def given_up(node: SearchNode) -> NodeFinished:
    """The outcome of a program that ended this process at every start.

    An example: it takes the memory of the whole machine.
    """
    message = f"the worker did not survive {node.starts} executions of this program"
    return NodeFinished(node_id=node.id, outcome=NodeOutcome.BUGGY, error_kind="worker_lost", error=message)


def is_killed(record: NodeFinished) -> bool:
    """Whether a SIGKILL that is not the sandbox's ended the program.

    The sandbox sends it for a limit only, and names the limit. The kernel or a person may send it too, so it says
    little about the program.
    """
    return record.error_kind == signal.SIGKILL.name


def unscored(node: SearchNode, error: BaseException) -> NodeFinished:
    """The outcome where the controller itself could not execute or score."""
    message = truncate(f"the controller could not score the node: {classify(error).message}", _REASON_LIMIT)
    return NodeFinished(
        node_id=node.id, outcome=NodeOutcome.NO_SCORE, error_kind=type(error).__name__, error=message
    )


def equal_proof(state: SearchState, node: SearchNode, record: NodeFinished) -> SearchNode | None:
    """A replica with another seed that drew the same random numbers."""
    if not node.replica_of or not record.seed_proof:
        return None
    others = [state.nodes[node.replica_of], *state.replicas(node.replica_of)]
    same = (other for other in others if other.seed_proof == record.seed_proof and other.seed != node.seed)
    return next(same, None)
