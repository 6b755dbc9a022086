"""Missions: Python code run in a contained process, in an environment of its own; ``from safesh import TaskRunner``."""
