"""The HTTP surface: accepts jobs, answers about them, hands out results. Never touches a device."""
