"""Pure data and rules on the standard library: runs, leases, outcomes, events.

Nothing here does I/O or imports from the rest of the package. Every other part imports from here.
"""
