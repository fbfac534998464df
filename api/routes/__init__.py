"""HTTP to use cases and back. No decisions here."""
