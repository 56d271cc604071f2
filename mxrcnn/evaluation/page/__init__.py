"""report.html, the page of a test: content.py gathers what it shows, write.py writes it."""
