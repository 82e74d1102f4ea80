"""Video networks the host does not carry. What only one of them needs is imported when that one is built."""
