"""The commands of `darkroom`, one module per subject. Server parts are imported inside the commands that need them."""
