"""How the output moves with the tokens' embeddings: one file a method."""
