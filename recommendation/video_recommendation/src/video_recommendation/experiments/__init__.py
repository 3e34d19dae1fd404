"""What the statistics of an A/B test promise, and what they keep on real users.

Reading order: `population` (who the users are), `false_alarms` (A/A tests and peeking), `precision`
(CUPED, power, required users), `lost_users` (sample ratio), `rankers` (interleaving against A/B),
`tables` and `plots`, `command`.
"""
