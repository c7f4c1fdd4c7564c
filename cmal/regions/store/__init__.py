"""The region store: HDF5 shards and their index, written atomically, read lazily."""
