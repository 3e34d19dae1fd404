"""The feed as a service: prefetched slates, invalidated by events, computed in shared batches."""
