"""The Python process API over the same core that the supervisor uses; ``from safesh import execute_command``."""
