"""``python -m video_recommendation.published_table``: runs, prints, writes the results file."""

from pathlib import Path

from video_recommendation.published_table.table import main

if __name__ == "__main__":
    main(out=Path("results/published_table.json"))
