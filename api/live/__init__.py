"""Telling instead of being asked: event streams and long polls, all served by one look at the database at a time."""
