"""Where the heads look: one file a method."""
