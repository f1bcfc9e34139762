"""What every HTML page is made of: numbers as text, tables, cards, charts, pictures, style, and the page itself."""
