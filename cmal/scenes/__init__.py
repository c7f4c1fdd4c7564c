"""The generated world: objects, drawing, language, and a detector trained on it."""
