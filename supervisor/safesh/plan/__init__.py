"""Plans: many supervised steps, each a run of the same core, started as their dependencies and resources allow."""
