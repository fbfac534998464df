"""What happens to pictures and masks around the model, in Pillow and numpy alone, so it runs without torch."""
