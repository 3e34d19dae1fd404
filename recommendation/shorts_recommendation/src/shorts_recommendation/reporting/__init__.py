"""What a run says at its end: tables on the terminal, a page with pictures."""
