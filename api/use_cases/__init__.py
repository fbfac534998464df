"""What a client can do, one module each. Every one owns its transactions; routes own none."""
