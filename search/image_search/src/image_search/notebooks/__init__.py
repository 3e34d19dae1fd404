"""The machinery of ``notebooks/``: the desk they work at, and the command that runs them.

The notebooks themselves define nothing. They call the package; what only they need is here.
"""
