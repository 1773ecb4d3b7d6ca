"""MongoDB: the only package that names collections and camelCase fields."""
