"""Text queries: a dual encoder that puts sentences and pictures into one space."""
