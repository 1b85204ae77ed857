"""Video frames to the patches that a Qwen vision tower reads, equal to Hugging Face's PIL pipeline bit for bit."""
