"""Who asks, and what they may do: keys, tokens, roles, and the one matrix of role by operation."""
