"""Is the served model still given what it learned on, and is it still right?

Reading order: `reference` (what training leaves behind for comparison), `labels` (which shown item
was watched), `monitor` (hangs onto the engine, reports to Prometheus), `demo` (three faults, and
what the monitor says of each), `parity` (served features against the offline builder).
"""
