"""Items -> vectors."""
