"""The command line: one file a verb; only this room prints and exits."""
