"""Four things that break in a feed of short videos, one module each; see labs/README.md."""
