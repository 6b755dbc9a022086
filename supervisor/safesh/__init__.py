"""safesh: run it once, see all of it, stop all of it."""

__version__ = "0.1.0"
