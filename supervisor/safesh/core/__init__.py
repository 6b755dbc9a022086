"""The one way to start and to end processes."""
