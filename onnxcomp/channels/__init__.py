"""Which channels of a model must go together, and how to take them out."""
