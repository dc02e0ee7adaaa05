"""A plugin that cannot be imported here, as happens when a dependency is missing."""

raise ImportError("needs the package nonexistent_dependency")
