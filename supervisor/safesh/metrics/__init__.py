"""What the system, every process and every tree use: snapshots, samples, history, exporter."""
