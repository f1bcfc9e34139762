"""The contact sheet: one HTML page that shows a catalog before anything is trained on it.

`gather` reads what there is (the source, the work folder's items, quarantine, validation, pairs), `lines` tells it in a
terminal, `page` draws it. No picture is read that is not shown.
"""
