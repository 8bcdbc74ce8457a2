"""What is known of the images: which there are, which go where (before), which went where (after)."""
