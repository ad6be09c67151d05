"""The loop: many training steps between two visits to Python."""
