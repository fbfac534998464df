"""`darkroom batch`: a folder of pictures through one batch, and its results into files."""
