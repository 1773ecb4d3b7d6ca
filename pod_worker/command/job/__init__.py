"""A job as a user writes it: fields, units, sweeps."""
