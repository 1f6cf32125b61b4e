"""From one form of a trained model to another."""
