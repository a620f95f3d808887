"""Everything that answers `POST …/images/edits`: OpenAI, gateways in its shape, and image servers of one's own."""
