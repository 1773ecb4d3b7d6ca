"""The MongoDB client: majority writes, server time, tolerant reads, named errors.

The path of the URL decides the database, else `ai_scientist`. Indexes are declared beside the queries that need
them and created here. This module holds no query.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import AsyncMongoClient, IndexModel, MongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import ConfigurationError, InvalidURI, OperationFailure, PyMongoError
from pymongo.monitoring import CommandListener
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from pod_worker.core.run import Json

DEFAULT_DATABASE = "ai_scientist"

Document = dict[str, Json]
Mongo = Database[Document]
AsyncMongo = AsyncDatabase[Document]
Rows = Collection[Document]

# Invalid UTF-8 and dates outside the calendar are read as replacement characters and as `DatetimeMS`. The default
# codec raises, and then one such value hides every document of its batch.
TOLERANT: CodecOptions[Document] = CodecOptions(
    tz_aware=True,
    unicode_decode_error_handler="replace",
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)


_INDEX_CONFLICTS = (11000, 85, 86)  # duplicate key; the same keys, or the same name, with other options


class ConfiguredClient(MongoClient[Document]):
    """A client that keeps its own settings.

    pymongo compares clients by address, so no dictionary can.
    """

    settings: dict[str, Json]


class StoreUnreachableError(Exception):
    """MongoDB did not answer.

    The message names the host and the fix, never a password.
    """


class IndexConflictError(Exception):
    """A stored document or an index of another program prevents an index of ours."""


class MongoUrlError(Exception):
    """The URL itself is wrong; the message says how it should look."""


def connect(
    url: str,
    *,
    timeout_seconds: float = 5.0,
    app_name: str = "pod_worker",
    pool_size: int = 16,
    listeners: Sequence[CommandListener] = (),
) -> Mongo:
    """A handle on the database that `url` names; connects lazily.

    Writes wait for a majority with the journal, reads see majority-committed data, dates are aware UTC.
    Raises MongoUrlError.
    """
    name = database_name(url)
    settings: dict[str, Json] = {
        "host": url,
        "appname": app_name,
        "tz_aware": True,
        "retryWrites": True,
        "retryReads": True,
        "maxPoolSize": pool_size,
        "serverSelectionTimeoutMS": int(timeout_seconds * 1000),
        "connectTimeoutMS": int(timeout_seconds * 1000),
        "socketTimeoutMS": int(max(timeout_seconds * 4, 20) * 1000),
        "event_listeners": list(listeners),
    }
    try:
        client = ConfiguredClient(**settings)
    except (ConfigurationError, InvalidURI, ValueError) as error:
        raise MongoUrlError(f"MONGODB_URL {redacted(url)} is not usable: {redacted_text(error, url)}") from None
    client.settings = settings
    return client.get_database(
        name,
        write_concern=WriteConcern("majority", wtimeout=20_000),
        read_concern=ReadConcern("majority"),
    )


def async_database(database: Mongo) -> AsyncMongo:
    """The same database with the same settings, for one event loop.

    The caller closes its client.

    Raises TypeError for a database that `connect` did not open.
    """
    opened = database.client
    if not isinstance(opened, ConfiguredClient):
        raise TypeError("The database was not opened by connect(), so its settings are unknown.")
    client: AsyncMongoClient[Document] = AsyncMongoClient(**opened.settings)
    return client.get_database(
        database.name, write_concern=database.write_concern, read_concern=database.read_concern
    )


def database_name(url: str) -> str:
    """The URL's path, else `ai_scientist`.

    Raises MongoUrlError for any other kind of URL.
    """
    if not url.startswith(("mongodb://", "mongodb+srv://")):
        raise MongoUrlError(
            f"MONGODB_URL must begin with mongodb:// or mongodb+srv://, got {redacted(url)!r}; "
            "for example mongodb://user:password@host:27017/ai_scientist"
        )
    return urlsplit(url).path.strip("/") or DEFAULT_DATABASE


def redacted(url: str) -> str:
    """The URL with the user and password replaced: the only form that may be shown."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "(not shown: it has no scheme, so its password cannot be separated from its host)"
    host = rest.rsplit("@", 1)[-1]
    return f"{scheme}://{'***@' if '@' in rest else ''}{host}"


# The driver appends its timeouts and a dump of the topology to each message about a connection.
_DRIVER_DETAILS = re.compile(r" \(configured timeouts:[^)]*\)|, Timeout: .*| \(generic driver error\)", re.DOTALL)


def brief_text(error: BaseException) -> str:
    """The first line of a driver's message, without its dump of the topology."""
    text = _DRIVER_DETAILS.sub("", str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__


def redacted_text(error: BaseException, url: str) -> str:
    """The error with the password of `url` masked.

    A user's name alone stays: a short one is a part of other words.
    """
    text = brief_text(error)
    user_info = url.partition("://")[2].rpartition("@")[0]
    if password := user_info.partition(":")[2]:
        text = text.replace(user_info, "***").replace(password, "***")
    return text


def check_reachable(database: Mongo, url: str = "") -> None:
    """Ask the server once whether it can do what the queue needs.

    Raises StoreUnreachableError.
    """
    host = redacted(url) if url else "MongoDB"
    try:
        hello = database.client.admin.command("hello")
    except OperationFailure as error:
        raise StoreUnreachableError(
            f"{host} refused the login: {redacted_text(error, url)}. Check user, password and authSource."
        ) from None
    except PyMongoError as error:
        raise StoreUnreachableError(
            f"Cannot reach {host}: {redacted_text(error, url)[:300]}. Check that MongoDB runs, that MONGODB_URL "
            "is correct and that this machine may connect (`pod-worker up` starts a local MongoDB)."
        ) from None
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise StoreUnreachableError(
            f"{host} is a standalone server; the queue needs a replica set (retryable writes, change streams). "
            "Start mongod with --replSet rs0 and run rs.initiate()."
        )


def server_time(database: Mongo) -> datetime:
    """The server's clock, by which leases end. Aware, UTC."""
    now: datetime = database.command("hello")["localTime"]
    return now if now.tzinfo else now.replace(tzinfo=UTC)


def tolerant_rows(database: Mongo, name: str) -> Rows:
    """The collection with the tolerant codec.

    Every read of documents that other programs may write uses it.
    """
    return database.get_collection(name, codec_options=TOLERANT)


def ensure_indexes(database: Mongo, wanted: dict[str, list[IndexModel]]) -> None:
    """Create what is missing; an index that exists is left alone.

    Raises IndexConflictError.
    """
    for collection, indexes in wanted.items():
        if indexes:
            try:
                database[collection].create_indexes(indexes)
            except OperationFailure as error:
                if error.code not in _INDEX_CONFLICTS:
                    raise
                raise IndexConflictError(
                    f"An index of the collection {collection} cannot be created: {brief_text(error)[:500]}. "
                    "Change or remove the document or the index that this names, then start again."
                ) from None


def literal(value: Json) -> Document:
    """Data inside an update pipeline, so that a `$` in a user's text stays text."""
    return {"$literal": value}
