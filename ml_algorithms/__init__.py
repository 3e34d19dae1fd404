"""Algorithm deep dives: from-scratch code that systems import, beside the page that explains it."""
