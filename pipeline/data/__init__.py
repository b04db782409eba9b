"""Items in: the table, its readers, the class-disjoint split and the training batches."""
