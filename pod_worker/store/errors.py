"""Which MongoDB errors are permanent: sent again, the write is refused again.

One classification for all callers. A permanent error ends the attempt (or the event, or the row) with a named
failure. Any other error is retried: the server, the network or the deployment may recover without a change of
what is written. Wrong credentials count as transient for that reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bson.errors import BSONError
from pymongo.errors import (
    BulkWriteError,
    InvalidName,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)

from pod_worker.core.run import Json

DUPLICATE_KEY = 11000

# Raised before anything is sent: BSON cannot hold the value (depth, 64 bits, encoding, names, 16 MiB).
ENCODING_ERRORS = (BSONError, InvalidName, OverflowError, UnicodeError, RecursionError)

# Server error codes that say something about the server, its replica set, the session or the account.
_TRANSIENT_CODES = frozenset({
    6,  # HostUnreachable
    7,  # HostNotFound
    11,  # UserNotFound
    13,  # Unauthorized
    18,  # AuthenticationFailed
    24,  # LockTimeout
    43,  # CursorNotFound
    46,  # LockBusy
    50,  # MaxTimeMSExpired
    64,  # WriteConcernFailed
    79,  # UnknownReplWriteConcern
    89,  # NetworkTimeout
    91,  # ShutdownInProgress
    100,  # UnsatisfiableWriteConcern
    112,  # WriteConflict
    133,  # FailedToSatisfyReadPreference
    134,  # ReadConcernMajorityNotAvailableYet
    136,  # CappedPositionLost
    175,  # QueryPlanKilled
    189,  # PrimarySteppedDown
    202,  # NetworkInterfaceExceededTimeLimit
    225,  # TransactionTooOld
    237,  # CursorKilled
    239,  # SnapshotTooOld
    246,  # SnapshotUnavailable
    251,  # NoSuchTransaction
    262,  # ExceededTimeLimit
    279,  # ClientDisconnect
    290,  # TransactionExceededLifetimeLimitSeconds
    388,  # TransactionTooLargeForCache
    391,  # ReauthenticationRequired
    9001,  # SocketException
    10107,  # NotWritablePrimary
    11600,  # InterruptedAtShutdown
    11601,  # Interrupted
    11602,  # InterruptedDueToReplStateChange
    13388,  # StaleConfig
    13435,  # NotPrimaryNoSecondaryOk
    13436,  # NotPrimaryOrSecondary
    14031,  # OutOfDiskSpace
})  # fmt: skip
_TRANSIENT_LABELS = ("RetryableWriteError", "TransientTransactionError", "UnknownTransactionCommitResult")


def is_permanent_error(error: BaseException) -> bool:
    """Whether repeating the same database call cannot succeed.

    Takes the error of a single call or of a bulk. True for a value that BSON cannot hold, for a document beyond
    16 MiB, and for every refusal by the server that is not about its own state. A bulk is permanent when each
    of its errors is, and no write concern is open: then all its other writes are done. False for errors of the
    connection and for anything that is no error of BSON or of pymongo.
    """
    if isinstance(error, BulkWriteError):
        return is_partial_write(error) and all(
            _is_permanent_code(each.get("code")) for each in error.details["writeErrors"]
        )
    if isinstance(error, ENCODING_ERRORS):
        return True
    if not isinstance(error, OperationFailure) or isinstance(error, WriteConcernError):
        return False
    if any(error.has_error_label(label) for label in _TRANSIENT_LABELS):
        return False
    return _is_permanent_code(error.code)


def is_partial_write(error: BaseException) -> bool:
    """Whether an unordered bulk did all writes but those in its `writeErrors`.

    A majority has those writes.
    """
    return isinstance(error, BulkWriteError) and not error.details.get("writeConcernErrors")


def is_duplicate_only(error: BulkWriteError) -> bool:
    """Whether a bulk insert lacks only documents whose id existed already."""
    return is_partial_write(error) and all(each["code"] == DUPLICATE_KEY for each in error.details["writeErrors"])


def describe_error(error: BaseException) -> str:
    """One line for a log: whether MongoDB refused or did not answer, and why."""
    if isinstance(error, BulkWriteError):
        return f"MongoDB refused {_bulk_text(error.details)}"
    if isinstance(error, ENCODING_ERRORS):
        return f"MongoDB cannot store the value ({type(error).__name__}: {_first_line(error)})"
    if isinstance(error, OperationFailure):
        return f"MongoDB refused the command (code {error.code}: {_first_line(error)})"
    if isinstance(error, PyMongoError):
        return f"MongoDB does not answer ({type(error).__name__})"
    return f"{type(error).__name__}: {_first_line(error)}"


def _is_permanent_code(code: Json) -> bool:
    return isinstance(code, int) and code not in _TRANSIENT_CODES


def _bulk_text(details: Mapping[str, Json]) -> str:
    refused: Sequence[Mapping[str, Json]] = details.get("writeErrors") or []
    if not refused:
        return "to confirm the writes (write concern)"
    first = refused[0]
    return f"{len(refused)} of the writes (first: code {first.get('code')}: {str(first.get('errmsg'))[:200]})"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:300]
