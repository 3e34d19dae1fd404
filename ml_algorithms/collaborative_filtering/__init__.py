"""Neighbourhood models on implicit feedback: item kNN, RP3beta, co-visitation."""
