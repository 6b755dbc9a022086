"""The benchmark: one file a noun, ``main`` puts them together."""
