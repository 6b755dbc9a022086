"""Pictures of the terminal for README.md: what the real program draws, as SVG, still and moving."""
