"""Vision Transformers: their numbers (variants, flops: torch-free) and the model itself (vit)."""
