"""The shipped case studies: one YAML each, with its data and the data's notices beside it."""
