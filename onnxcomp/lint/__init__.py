"""What stands in the way of a smaller or faster model: findings, each with what to do."""
