"""Mixtures of sources: which help or hurt which abilities, and what was copied. Functions on tensors."""
