"""Where the bytes lie: one port, a local folder and any S3-compatible store behind it."""
