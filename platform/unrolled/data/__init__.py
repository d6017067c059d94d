"""Sources, vocabularies, tokenised files and batches."""
