"""Everything a person sees. Takes records, knows nothing of how they were computed. rich lives here only."""
