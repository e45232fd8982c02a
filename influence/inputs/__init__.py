"""Which input tokens made the model say it? Gradient, perturbation, surrogate, attention."""
