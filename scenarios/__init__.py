"""The shipped case studies: one YAML file each, with its data and the data's notices beside it."""
