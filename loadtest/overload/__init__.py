"""What an engine does when more comes in than it can store: an open-loop driver and the curve it draws."""
