"""What a model costs, counted and measured; what its attentions do; sweeps over settings."""
