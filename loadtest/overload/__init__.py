"""What an engine does when more comes in than it can store: the curve that the open-loop driver draws."""
