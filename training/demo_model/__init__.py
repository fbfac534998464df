"""The `demo` model: a toy in the Stable Diffusion 1.5 layout, trained here on pictures drawn here."""
