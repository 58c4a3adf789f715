"""The search for the int8 form of a model that is within its budget and the fastest."""
