"""Videos to clips: data sets, decoding once, the clip store, and what a model sees of it."""
