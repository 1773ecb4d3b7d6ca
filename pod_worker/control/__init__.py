"""The control plane: ingest, projections, read API and live view, as one FastAPI app over the shared stores."""
