"""What a user's clicks change."""
