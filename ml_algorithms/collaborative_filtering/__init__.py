"""Collaborative filtering on implicit feedback: EASE, item kNN, RP3beta, iALS, co-visitation."""
