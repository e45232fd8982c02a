"""What the output loses without a part of the prompt: one file a method."""
