"""MongoDB: the only package that names a collection or writes a field in camelCase."""
