"""What a model costs, counted and measured; what its attentions do."""
