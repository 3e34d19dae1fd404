"""From the pool to an order: a light pre-ranker, then LambdaMART or a multi-task MMoE."""
