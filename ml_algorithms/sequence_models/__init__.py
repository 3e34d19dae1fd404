"""Next-item models over a user's history: SASRec, HSTU, their losses, and what they must beat.

``sequences`` (windows and padded histories), ``sasrec`` and ``hstu`` (the two networks), ``losses``
(full and sampled softmax, BCE, gBCE), ``training``, ``baselines``, ``evaluation`` (leave-last-out,
full ranking), ``bench`` (the study). Start at ``sasrec``.
"""
