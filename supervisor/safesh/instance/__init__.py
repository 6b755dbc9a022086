"""Exactly one, and who it is: lock, pid file, status record, strays."""
