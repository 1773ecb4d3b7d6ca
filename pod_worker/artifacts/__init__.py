"""Files that leave the pod: hashed, uploaded, verified in the store, registered.

The pod's side is `publisher` with its `ledger`; the store's side is `object_store`. A pod never needs a
credential of the object store.
"""
