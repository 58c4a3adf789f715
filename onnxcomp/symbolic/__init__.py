"""What is known of shapes, and of the integers computed from them, for every input size."""
