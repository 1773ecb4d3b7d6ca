"""Language models: adapters of the completion port, prices, ledger and cache."""
