"""Image search: query by picture and by text."""
