"""Data: sources, readers, vocabularies, tokenised corpora and batches."""
