"""Results as plain JSON values, in one versioned envelope. Knows no colours and no width.

Every command prints one of these documents, and waits for the rooms of none of the others: what a document
is made of is imported for its types alone.
"""
