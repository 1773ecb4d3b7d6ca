"""Pure data and rules, standard library only: what a run is, who may write it, what can happen to it.

Nothing here does I/O or imports from the rest of the package; everything else imports from here.
"""
