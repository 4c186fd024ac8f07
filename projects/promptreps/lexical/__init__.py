"""Dense and lexical vectors from a prompted language model, impact indexes and hybrid search."""
