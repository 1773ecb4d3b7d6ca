"""One wait for a majority instead of one for each write.

A replica set's oplog is one line: when a write is committed by a majority, so is everything that the same
primary wrote before it. So a group of writes goes out without waiting, and the last one waits for all of them (if
there is no last one, one that changes nothing: mongod makes it wait for the last operation it knows). If the
primary changed in between, the argument is void: then nothing may be acknowledged, and `OneWait` raises. Sharded
clusters have several lines, so there every write waits for itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bson.min_key import MinKey
from pymongo.errors import AutoReconnect
from pymongo.read_concern import ReadConcern
from pymongo.topology_description import TopologyDescription
from pymongo.write_concern import WriteConcern

from pod_worker.store.mongo import Mongo

_ONE_LINE = frozenset({"ReplicaSetWithPrimary", "ReplicaSetNoPrimary", "Single", "Unknown"})


@dataclass(slots=True)
class Group:
    database: Mongo
    has_waited: bool = False  # set it after any write that waited for a majority, behind all the others


class OneWait:
    def __init__(self, database: Mongo) -> None:
        self.patient = database
        # Reads see what was just written, also by a group that failed half-way: the wait at the end covers it.
        self.quick: Mongo = database.with_options(
            write_concern=WriteConcern(w=1), read_concern=ReadConcern("local")
        )

    @contextmanager
    def group(self) -> Iterator[Group]:
        """Write through the group's `database`; leaving the block waits, unless a later write has waited.

        Raises PyMongoError when what was written may be lost; writing all of it again is then needed.
        """
        primary = self._primary()
        if primary is None:
            yield Group(self.patient, has_waited=True)
            return
        group = Group(self.quick)
        yield group
        if not group.has_waited:
            self.patient["runs"].update_one({"_id": MinKey()}, {"$set": {"never": True}})
        if self._primary() != primary:
            raise AutoReconnect("the primary changed while a batch was stored")

    def _primary(self) -> tuple[object, ...] | None:
        """Which primary, in which term; None where the argument does not hold."""
        client = self.patient.client
        found = _primaries(client.topology_description)
        if found == ():  # nobody has asked for it yet
            client.admin.command("ping")
            found = _primaries(client.topology_description)
        return found


def _primaries(topology: TopologyDescription) -> tuple[object, ...] | None:
    if topology.topology_type_name not in _ONE_LINE:
        return None
    servers = topology.server_descriptions().values()
    return tuple((each.address, each.election_id) for each in servers if each.server_type_name == "RSPrimary")
