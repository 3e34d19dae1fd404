"""Recall: five sources propose, a merge by quota makes one list of a thousand videos a request."""
