"""Turns exceptions into three-valued reads: Known, Absent, Unknown.

Only PodNotFoundError means Absent. An undecodable reply is Unknown, because it may hide a pod.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pod_worker.pods.errors import PodNotFoundError, ProviderError, ServerError
from pod_worker.pods.json_view import UndecodableReplyError
from pod_worker.pods.pod import Pod
from pod_worker.pods.provider import Absent, Known, ListResult, ReadResult, Unknown

T = TypeVar("T")


def read_result(read: Callable[[], T]) -> ReadResult[T]:
    try:
        return Known(read())
    except PodNotFoundError:
        return Absent()
    except ProviderError as error:
        return Unknown(error)
    except UndecodableReplyError as error:
        return Unknown(ServerError(str(error)))


def list_result(read: Callable[[], tuple[T, ...]]) -> ListResult[T]:
    """Like read_result; a 404 of a list endpoint is a wrong address, so Unknown."""
    result = read_result(read)
    if isinstance(result, Absent):
        return Unknown(PodNotFoundError("the provider has no such list; check the API base URL", status=404))
    return result


def all_named(name: str, listing: ListResult[Pod]) -> ReadResult[tuple[Pod, ...]]:
    if isinstance(listing, Unknown):
        return listing
    found = tuple(pod for pod in listing.value if pod.name == name)
    return Known(found) if found else Absent()
