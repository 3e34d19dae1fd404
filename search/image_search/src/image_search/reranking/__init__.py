"""The page as a whole: near-duplicates, diversity."""
