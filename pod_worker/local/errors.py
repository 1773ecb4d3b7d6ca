"""What can go wrong with the local stack; messages name the cause and the fix.

One base class, so a composition root can print any of them without a traceback.
"""


class LocalStackError(Exception):
    """The local stack cannot start or has lost a part; the message has the fix."""


class BinaryMissingError(LocalStackError):
    """No usable executable for a server on this machine."""


class FolderInUseError(LocalStackError):
    """Another live process owns this data folder."""


class ChildDiedError(LocalStackError):
    """A child process ended when it should have been running."""


class NotReadyError(LocalStackError):
    """A child process is alive but did not become ready in time."""


class StopRequestedError(LocalStackError):
    """A stop was requested while the stack was still starting."""
