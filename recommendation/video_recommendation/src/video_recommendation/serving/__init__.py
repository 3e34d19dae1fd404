"""The served system: HTTP API, live user state, live popularity, event ingestion.

Reading order: `protocol` (what it needs from the recommender), `state` (how an event becomes a
user's history), `popularity` (live item counts), `engine` (one request), `app` (routes), `server`
and `run` (start), `load_session` (the whole under load).
"""
