"""Break-it labs: build the healthy thing, break one thing, read the symptom, apply the fix."""
