"""The threshold search against other engines' own: Qdrant, pgvector, Chroma, LanceDB."""
