"""The loop as a whole: serve, log, join, train, register, shadow, canary, promote, day after day.

Reading order: `settings` (who, how much, when), `loop` (one arm, all its days), `service` (a day of
requests), `logs` and `joining` (from logs to labelled rows), `training` (the next version),
`rollout` (whether it may serve), `measures` (what the truth says), `command`.

Apart from the loop: `off_policy_study` and `off_policy_demo`, what a log says of other policies.
"""
