"""What every stage is worth: tables, intervals, pictures."""
