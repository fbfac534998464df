"""Pictures: untrusted bytes to clean pixels, pixels to files, pictures side by side.

Importing this package loads nothing. Pillow is imported by `decode`, `encode` and `grid`, and not by `sandbox`,
so a process that only hands bytes to the decoding child stays without it.
"""
