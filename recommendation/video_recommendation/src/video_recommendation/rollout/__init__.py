"""From a trained bundle to what users get: versions, shadow traffic, canary."""
