"""The provider interface: the project's only access to a GPU cloud.

Reads have three values and never raise: Known, Absent, or Unknown with the reason. Unknown is not Absent: it
must not lead to a termination. Writes raise the errors of errors.py. Nothing here keeps state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeAlias, TypeVar

from pod_worker.pods.catalogue import BillingRecord, Catalogue, LogLine, Volume
from pod_worker.pods.errors import ProviderError
from pod_worker.pods.pod import Pod, PodSpec

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Known(Generic[T]):
    value: T


@dataclass(frozen=True, slots=True)
class Absent:
    """The provider answered: there is no such pod."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """The provider could not be read; `error` says why."""

    error: ProviderError


ReadResult: TypeAlias = Known[T] | Absent | Unknown
ListResult: TypeAlias = Known[tuple[T, ...]] | Unknown


class PodProvider(Protocol):
    @property
    def api(self) -> str:
        """Which API answers: v2, v1 or graphql."""

    def list(self) -> ListResult[Pod]:
        """Every pod of the account.

        One undecodable entry makes the whole listing Unknown, because an incomplete listing would count as proof
        that a pod does not exist.
        """

    def get(self, pod_id: str) -> ReadResult[Pod]: ...

    def find_by_name(self, name: str) -> ReadResult[tuple[Pod, ...]]:
        """All pods with exactly this name (names are not unique).

        The read is Absent when there is none.
        """

    def create(self, spec: PodSpec) -> Pod:
        """Send one create, once. After a ServerError the pod may exist."""

    def stop(self, pod_id: str) -> None: ...

    def start(self, pod_id: str) -> None: ...

    def terminate(self, pod_id: str) -> None:
        """Raises PodNotFoundError where the provider has no such pod."""

    def logs(
        self, pod_id: str, *, tail: int = 100, since: str | None = None, follow: bool = False
    ) -> Iterator[LogLine]:
        """Log lines, oldest first. `since` is a LogLine.at to resume after.

        Without `follow` the iterator ends when the backlog is read. Raises ProviderError.
        """

    def catalogue(self) -> Known[Catalogue] | Unknown: ...

    def volumes(self) -> ListResult[Volume]: ...

    def billing(
        self, *, start: datetime, end: datetime, pod_id: str | None = None
    ) -> ListResult[BillingRecord]: ...

    def close(self) -> None: ...
