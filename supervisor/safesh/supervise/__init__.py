"""Holding one target: the state machine, restarts, the log, the loop."""
