"""Where pictures lie: folders, archives, table cells, the web."""
