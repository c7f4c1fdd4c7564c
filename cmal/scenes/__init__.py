"""The generated world: what it is made of, how it is drawn and how it is talked about."""
