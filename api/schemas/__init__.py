"""What goes over the wire, as Pydantic models: the edge where loose JSON becomes typed values."""
