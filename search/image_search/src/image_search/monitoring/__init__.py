"""The service watched: drift of the queries, what /v1/operations tells."""
