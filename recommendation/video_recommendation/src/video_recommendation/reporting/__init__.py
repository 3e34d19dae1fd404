"""What a run shows: tables on the terminal, plots, and report.html, all from the same numbers."""
