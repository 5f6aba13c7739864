"""Whether the coordinator and its nodes are fit: findings, each with what to do."""
