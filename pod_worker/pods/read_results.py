"""From exceptions to three-valued reads: the one place where a provider error becomes Unknown or Absent.

Only NotFound means Absent. A reply that cannot be decoded is Unknown: half a listing is not a listing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pod_worker.pods.errors import NotFound, ProviderError, ServerError
from pod_worker.pods.json_view import Undecodable
from pod_worker.pods.pod import Pod
from pod_worker.pods.provider import Absent, Known, Listing, Read, Unknown

T = TypeVar("T")


def attempt(read: Callable[[], T]) -> Read[T]:
    try:
        return Known(read())
    except NotFound:
        return Absent()
    except ProviderError as error:
        return Unknown(error)
    except Undecodable as odd:
        return Unknown(ServerError(str(odd)))


def attempt_listing(read: Callable[[], tuple[T, ...]]) -> Listing[T]:
    """A list endpoint that answers 404 is a wrong address, not an empty account."""
    result = attempt(read)
    if isinstance(result, Absent):
        return Unknown(NotFound("the provider has no such list; check the API base URL", status=404))
    return result


def all_named(name: str, listing: Listing[Pod]) -> Read[tuple[Pod, ...]]:
    if isinstance(listing, Unknown):
        return listing
    found = tuple(pod for pod in listing.value if pod.name == name)
    return Known(found) if found else Absent()
