"""Small models of the model, fitted to what it says under masks: one file a method."""
