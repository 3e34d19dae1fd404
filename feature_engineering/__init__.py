"""Feature techniques, the feature schema, and the builders that training and serving share.

See README.md for the page that explains each piece. Import the module you need:
``feature_engineering.schema``, ``.counters``, ``.encoding``.
"""
