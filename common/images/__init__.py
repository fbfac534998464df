"""Pictures: untrusted bytes to clean pixels, pixels to files, pictures side by side.

Importing this package loads nothing. Pillow is imported by all that touches pixels, and not by `sandbox`,
so a process that only hands bytes to the decoding child stays without it.
"""
