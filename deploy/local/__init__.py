"""Everything on one machine, with nothing installed by hand."""
